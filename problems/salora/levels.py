r"""Train SaLoRA's levels: factors through their gates, gates, and the multiplier of the density.

one level    min over V, theta    L(D) + beta R_orth + lambda (C(theta) - b)^2
two levels   lower, over V        L(V, g; D_train) + beta R_orth(V)
             upper, over theta    L(V*(theta), g; D_val) + lambda (C(theta) - b)^2
multiplier   max over lambda >= 0 of  lambda (C(theta) - b)^2
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from peft import PeftModel
from torch import Tensor, nn

from bilevel import ProblemConfig, UpperProblem
from bilevel.lowrank import Gates
from bilevel.lowrank.attach import Factors
from problems import common
from problems.common import Job, OptimizerSettings
from problems.salora.window import GateWindow

__all__ = [
    "Ascent",
    "GatedFineTuning",
    "GatedModel",
    "GatesAndFactors",
    "LearningGates",
    "LowerFactors",
    "Multiplier",
    "UpperGates",
    "multiplier_problem",
]


class GatedFineTuning(common.FineTuning):
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
        with common.full_precision(self):
            return loss + self.beta * self.penalty(self.factors.pairs())

    def extra_state(self) -> dict[str, Any]:
        """The gates' phase."""
        return self.gate_window.state()

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self.gate_window.load_state(state)


class GatedModel(nn.Module):
    """A model and its gates, where one problem owns parameters of both."""

    def __init__(self, model: PeftModel, gates: Gates) -> None:
        super().__init__()
        self.model = model
        self.gates = gates

    def forward(self, **batch: Tensor) -> Any:
        """The model's."""
        return self.model(**batch)


class GatesAndFactors(GatedFineTuning):
    """L(D) + beta R_orth + lambda (C - b)^2; theta and the last term in the window only."""

    @property
    def differentiated(self) -> bool:
        """Never: the multiplier has no loss but its own term."""
        return False

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss with its penalties."""
        loss = super().training_step(batch)
        if not (self.gate_window.learning and self.parents):
            return loss
        with common.full_precision(self):
            return loss + self.multiplier.module(self.gate_window.density())

    def grad_callback(self) -> None:
        """No step of theta outside the window, not even by the optimiser's momentum.

        Whatever gradient there is goes: an optimiser passes over a parameter without one, and would
        step by its momentum, or its weight decay, at zeros.
        """
        if not self.gate_window.learning:
            self.gate_window.gates.logits.grad = None


class LowerFactors(GatedFineTuning):
    """Lower level: L(V, g; D_train) + beta R_orth(V), at the gates' present draw."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Of the training: a check of horizons takes windows of other lengths for a while.
        self.unroll_steps = self.config.unroll_steps

    def phase_step(self) -> int:
        """Windows of T1 steps before the one under way: the gates' steps are counted in these."""
        return super().phase_step() // self.unroll_steps

    @property
    def differentiated(self) -> bool:
        """In the gates' window only."""
        coming = self._count // self.gas // self.unroll_steps
        return self.gate_window.first <= coming < self.gate_window.last

    @property
    def records_steps(self) -> bool:
        """Not outside the window, where no hypergradient is taken."""
        return self.gate_window.learning


class LearningGates(Protocol):
    """What the levels above the factors ask of gates that learn for a part of the training."""

    @property
    def learning(self) -> bool:
        """Whether the gates learn at present."""

    def density(self) -> Tensor:
        """C(theta), differentiable."""


class UpperGates(common.HeldOut):
    """Upper level: L(V, g; D_val) + lambda (C - b)^2; steps in the window only.

    Args:
        gate_window: of the gates.
    """

    def __init__(self, *args: Any, gate_window: LearningGates, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gate_window = gate_window

    def check_ready(self) -> bool:
        """Not outside the window."""
        return bool(super().check_ready()) and self.gate_window.learning

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss, and what the density costs."""
        loss = super().training_step(batch)
        if not self.parents:
            return loss
        with common.full_precision(self):
            return loss + self.multiplier.module(self.gate_window.density())


class Multiplier(nn.Module):
    """The Lagrange multiplier lambda, starting at 0, and the constraint it weighs."""

    def __init__(self, target: float) -> None:
        super().__init__()
        self.target = target
        self.value = nn.Parameter(torch.zeros(()))

    def forward(self, density: Tensor) -> Tensor:
        """lambda (C - b)^2."""
        return self.value * (density - self.target) ** 2


class Ascent(UpperProblem):
    """Max over lambda >= 0 of lambda (C - b)^2: needs no data, steps in the window only.

    Its config has ``maximize=True``, its module is a :class:`Multiplier`.

    Args:
        gate_window: of the gates whose density is held.
    """

    def __init__(self, *args: Any, gate_window: LearningGates, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gate_window = gate_window

    def check_ready(self) -> bool:
        """Not outside the window, where C does not change."""
        return bool(super().check_ready()) and self.gate_window.learning

    def get_batch(self) -> dict[str, Tensor]:
        """No data."""
        return {}

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """lambda (C - b)^2, C as it stands."""
        return self.module(self.gate_window.density().detach())

    @torch.no_grad()
    def param_callback(self) -> None:
        """Project to lambda >= 0 after a step."""
        self.module.value.clamp_(min=0)


def multiplier_problem(
    job: Job,
    optimizer: OptimizerSettings,
    target: float,
    steps: int,
    lr: float,
    gate_window: LearningGates,
) -> Ascent:
    """The problem of lambda, which holds the density C of gates to ``target``.

    Args:
        job: tells precision and warm-up.
        optimizer: of lambda.
        target: b.
        steps: that it takes.
        lr: where ``optimizer`` names none.
        gate_window: of the gates.
    """
    module = Multiplier(target)
    made, scheduler = common.optimizer_and_scheduler(
        optimizer, list(module.parameters()), steps, lr, job.settings.warmup_steps
    )
    return Ascent(
        "multiplier",
        ProblemConfig(maximize=True, precision=job.settings.precision),
        module=module,
        optimizer=made,
        scheduler=scheduler,
        gate_window=gate_window,
    )
