"""What both forms of SaLoRA share: settings, the problem of the factors, learning rates."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from peft import PeftModel
from torch import Tensor

from bilevel import ProblemConfig
from bilevel.errors import UserError
from bilevel.lowrank import Gates, attach_gates, component_costs, orthogonality
from bilevel.lowrank.attach import Factors
from bilevel.lowrank.layers import lora_layers
from problems.common.method import FineTuning, Job, add_lora, check_lora
from problems.common.optimizer_settings import (
    OptimizerSettings,
    check_choice,
    check_range,
    optimizer_and_scheduler,
)
from problems.common.two_levels import full_precision
from problems.salora.window import PRUNE, Ascent, GateWindow, Multiplier, window_steps

__all__ = ["GATE_BETAS", "GatedFineTuning", "SaLoRASettings", "gate_lr", "multiplier_lr"]

log = logging.getLogger(__name__)

# How far log theta and lambda can come in a window with all of their steps at full length; lambda
# has to outgrow the task's pull on the gates, whose size is not known beforehand. Chosen so that
# windows of 90 to 450 steps reach densities of 0.5 to 0.125.
GATE_TRAVEL = 20.0
MULTIPLIER_TRAVEL = 60.0
# In a window of one step no gate moves apart from the others, in one of two all jump together: the
# density went from 0.92 to 0.003, whatever its target. From 20 on it was within 0.02 of it.
LEAST_STEPS = 3
ENOUGH_STEPS = 20
# Adam's for log theta, shorter memories than usual: the density's pull falls by orders of magnitude
# as it nears its target, and what Adam remembers of it would carry the gates far beyond.
GATE_BETAS = (0.8, 0.95)


class GatedFineTuning(FineTuning):
    """L(D) + beta R_orth, through gates that have their phases.

    Args:
        gate_window: of the gates.
        factors: of the model.
        beta: weight of the orthogonality penalty. penalty: its form.
    """

    def __init__(
        self,
        *args: Any,
        gate_window: GateWindow,
        factors: Factors,
        beta: float,
        penalty: Callable[..., Tensor],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.gate_window = gate_window
        self.factors = factors
        self.beta = beta
        self.penalty = penalty

    def one_step_descent(self, batch: Any = None) -> dict[str, Any]:
        """Put the gates into the phase of this step, and take it."""
        self.gate_window.enter(self.phase_step())
        return super().one_step_descent(batch)

    def phase_step(self) -> int:
        """Optimiser steps taken before the one under way."""
        return (self._count - 1) // self.gas

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss, its penalty in full precision."""
        loss = super().training_step(batch)
        if not self.beta:
            return loss
        with full_precision(self):
            return loss + self.beta * self.penalty(self.factors.pairs())

    def extra_state(self) -> dict[str, Any]:
        """The gates' phase."""
        return self.gate_window.state()

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self.gate_window.load_state(state)


def gate_lr(window: GateWindow) -> float:
    """Learning rate of log theta: the paper's 0.01, or what a short window needs.

    Adam moves a number by at most about its learning rate a step, which falls linearly to 0 in the
    window of W steps: all in all by W / 2 times what this returns.
    """
    return max(0.01, 2 * GATE_TRAVEL / (window.last - window.first))


def multiplier_lr(window: GateWindow) -> float:
    """Learning rate of lambda: the paper's 0.01, or what a short window needs."""
    return max(0.01, MULTIPLIER_TRAVEL / (window.last - window.first))


@dataclass(frozen=True)
class SaLoRASettings:
    """What both forms of SaLoRA have.

    Args:
        rank: r, components of every layer before pruning.
        lora_alpha, lora_dropout: as in LoRA.
        density: b, share of the adapter's parameters that is meant to stay.
        constraint: hold C to b by the multiplier; False for lambda = 0.
        prune: ``budget`` or ``threshold``, see :class:`problems.salora.window.GateWindow`.
        start, end: T_start and T_end, as shares of the steps.
        tau, gamma, zeta: of the hard-concrete gates.
        beta: weight of the orthogonality penalty.
        orth_squared: squared Frobenius norms, or the norms themselves.
        orth_reduce: ``mean`` over the matrices (two a layer), or ``sum`` (the paper).
        multiplier: optimiser of lambda (``name=sgd``: plain ascent); lr None for 0.01, or more in a
            short window.
        optimizer: of factors and head.
    """

    rank: int = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    density: float = 0.5
    constraint: bool = True
    prune: str = "budget"
    start: float = 0.1
    end: float = 0.4
    tau: float = 1.0
    gamma: float = -0.1
    zeta: float = 1.1
    beta: float = 0.1
    orth_squared: bool = True
    orth_reduce: str = "mean"
    multiplier: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(schedule="constant")
    )
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(weight_decay=0.1)
    )

    def __post_init__(self) -> None:
        parent: Any = super()
        if hasattr(parent, "__post_init__"):
            parent.__post_init__()
        check_lora(self.rank, self.lora_dropout)
        check_range("density", self.density, 0 < self.density <= 1, "in (0, 1]")
        check_choice("prune", self.prune, PRUNE)
        check_choice("orth_reduce", self.orth_reduce, ("mean", "sum"))
        within = 0 <= self.start < self.end <= 1
        check_range("start and end", (self.start, self.end), within, "0 <= start < end <= 1")
        check_range("beta", self.beta, self.beta >= 0, "0 or more")
        check_range("tau", self.tau, self.tau > 0, "more than 0")
        check_range("gamma", self.gamma, self.gamma < 0, "less than 0")
        check_range("zeta", self.zeta, self.zeta > 1, "more than 1")

    def check_window(self, steps: int) -> None:
        """Hold the window in ``steps`` steps against what gates need to learn.

        Raises:
            UserError: it is so short that chance decides what is kept.
        """
        first, last = window_steps(self.start, self.end, steps)
        said = (
            f"the gates learn for {last - first} of {steps} steps, from method.start={self.start} "
            f"to method.end={self.end}"
        )
        help_ = "raise train.epochs or train.max_steps, or widen this window"
        if last - first < LEAST_STEPS:
            raise UserError(f"{said}: chance would decide what is kept; {help_}")
        if last - first < ENOUGH_STEPS:
            log.warning(
                "%s: in fewer than %d the density may end far from method.density=%g; %s",
                *(said, ENOUGH_STEPS, self.density, help_),
            )

    def adapted(self, job: Job, steps: int) -> tuple[PeftModel, GateWindow]:
        """A fresh model with gates, and their window in ``steps`` steps."""
        model = add_lora(
            job,
            job.build_model(),
            r=self.rank,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
        )
        gates = Gates(
            list(lora_layers(model)),
            self.rank,
            "hard_concrete",
            tau=self.tau,
            gamma=self.gamma,
            zeta=self.zeta,
        )
        attach_gates(model, gates)
        first, last = window_steps(self.start, self.end, steps)
        costs = component_costs(model)
        return model, GateWindow(gates, costs, first, last, self.density, self.prune)

    def penalty(self) -> Callable[..., Tensor]:
        """R_orth in the form that is set."""
        return partial(orthogonality, squared=self.orth_squared, reduce=self.orth_reduce)

    def ascent(self, job: Job, window: GateWindow) -> Ascent:
        """The multiplier's problem."""
        module = Multiplier(self.density)
        optimizer, scheduler = optimizer_and_scheduler(
            self.multiplier,
            list(module.parameters()),
            window.last - window.first,
            multiplier_lr(window),
            job.settings.warmup_steps,
        )
        return Ascent(
            "multiplier",
            ProblemConfig(maximize=True, precision=job.settings.precision),
            module=module,
            optimizer=optimizer,
            scheduler=scheduler,
            gate_window=window,
        )

    def watch(
        self, window: GateWindow, factors: Factors, ascent: Ascent | None
    ) -> Callable[[], dict[str, float | Tensor]]:
        """What is drawn over the steps."""

        def numbers() -> dict[str, float | Tensor]:
            found: dict[str, float | Tensor] = {
                "density": window.density(),
                "orthogonality": orthogonality(factors.pairs()),
            }
            if ascent is not None:
                found["target_density"] = self.density
                found["multiplier"] = ascent.module.value
            return found

        return numbers
