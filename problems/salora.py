r"""SaLoRA (Structure-Aware Low-Rank Adaptation, Mathematics 2023, 11(20), 4317).

Every component j of every adapted matrix has a gate,

    dW = s B G A,     G = diag(g),     s = alpha / r,
    g = clip(sigmoid((log(u / (1 - u)) + log theta) / tau) (zeta - gamma) + gamma, 0, 1),

with u ~ U(0, 1) drawn once per training batch. Gates and factors descend one loss, and a Lagrange
multiplier ascends it, so that the expected share C of adapter parameters in use becomes b:

    min over B, A, head, theta   max over lambda >= 0
        L(D) + beta R_orth + lambda (C(theta) - b)^2

    R_orth = sum over layers of  ||B^T B - I||_F^2 + ||A A^T - I||_F^2
    C      = sum_l c_l sum_j sigmoid(log theta_lj - tau log(-gamma / zeta)) / sum_l c_l r,

c_l the parameters of one component of layer l. Before the step T_start all gates are exactly 1
(LoRA); from T_start to T_end they are drawn and learned; after T_end they are constants, those of
the components that are cut 0. Theta, lambda and their optimisers stand still outside the window.

In this engine: factors, head and theta are one problem, the multiplier another one above it that
has no data, maximises, and steps in the window only.

| choice | paper | here (default) |
|---|---|---|
| targets | q, k, v, o, up, down | all linear layers of the encoder (``targets``) |
| start of log theta | not said (its figure starts at C = 0.92) | 0: C = 0.917 |
| the window | 30 % of the steps; where is not said | 10 % to 40 % (``start``, ``end``) |
| C | sum of the layers' shares, no number in (0, 1) | share of all parameters |
| lambda | the multiplier, and in one equation also the weight of L0 | the multiplier |
| optimiser of lambda | lr 0.01, else not said | AdamW, ascending, projected to lambda >= 0 |
| lr of log theta, lambda | 0.01 | 0.01, more in short windows (``gate_lr``, see there) |
| their schedule | not said | constant inside the window, no weight decay |
| R_orth | squared, summed | squared, mean over the matrices, beta 0.1, in full precision |
| what is cut at T_end | gates whose expected value is 0 | all but the largest gates in the budget |
| what a kept gate becomes | its expected value | its expected value E[g] |
| lr of factors and head | tuned per task, 8e-5 to 1e-3 | train.lr, or 5e-4 |
| weight decay, warm-up | not said | 0.1 and 6 %, LoRA's |

Ablations: ``constraint=false prune=threshold`` (lambda = 0: the gates close as the task says) and
``beta=0``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from peft import PeftModel
from torch import Tensor, nn

from bilevel import ProblemConfig
from bilevel.hypergradient import NoHypergradient
from bilevel.lowrank import Gates, attach_gates, component_costs, orthogonality
from bilevel.lowrank.gates import Factors
from bilevel.lowrank.layers import lora_layers
from problems.base import (
    FineTuning,
    Job,
    Method,
    Outcome,
    StageRunner,
    add_lora,
    check_lora,
    count,
    loader,
    problem_config,
    total_steps,
    trainable,
)
from problems.gate_window import PRUNE, Ascent, GateWindow, Multiplier, window_steps
from problems.optimizers import (
    OptimizerSettings,
    check_choice,
    check_range,
    optimizer_and_scheduler,
)
from problems.two_levels import full_precision

__all__ = ["GatedFineTuning", "SaLoRA", "SaLoRASettings"]

GATE_TRAVEL = 10.0
MULTIPLIER_TRAVEL = 60.0


class GatedModel(nn.Module):
    """A model and its gates, where one problem owns parameters of both."""

    def __init__(self, model: PeftModel, gates: Gates) -> None:
        super().__init__()
        self.model = model
        self.gates = gates

    def forward(self, **batch: Tensor) -> Any:
        """The model's."""
        return self.model(**batch)


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


class GatesAndFactors(GatedFineTuning):
    """L(D) + beta R_orth + lambda (C - b)^2; theta and the last term in the window only."""

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss with its penalties."""
        loss = super().training_step(batch)
        if not (self.gate_window.learning and self.parents):
            return loss
        with full_precision(self):
            return loss + self.multiplier.module(self.gate_window.density())

    def grad_callback(self) -> None:
        """No step of theta outside the window, not even by the optimiser's momentum.

        An optimiser passes over a parameter without gradient, but averaging over ranks turns a
        missing gradient into zeros.
        """
        if not self.gate_window.learning:
            self.gate_window.gates.logits.grad = None


@dataclass(frozen=True)
class SaLoRASettings:
    """What both forms of SaLoRA have.

    Args:
        rank: r, components of every layer before pruning.
        lora_alpha, lora_dropout: as in LoRA.
        density: b, share of the adapter's parameters that is meant to stay.
        constraint: hold C to b by the multiplier; False for lambda = 0.
        prune: ``budget`` or ``threshold``, see :class:`problems.gate_window.GateWindow`.
        start, end: T_start and T_end, as shares of the steps.
        tau, gamma, zeta: of the hard-concrete gates.
        beta: weight of the orthogonality penalty.
        orth_squared: squared Frobenius norms, or the norms themselves.
        orth_reduce: ``mean`` over the matrices (two a layer), or ``sum`` (the paper).
        multiplier: optimiser of lambda (``name=sgd``: plain ascent); lr None as for ``gate_lr``.
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


def gate_lr(window: GateWindow) -> float:
    """Learning rate of log theta: the paper's 0.01, or what a short window needs.

    Adam moves a number by about its learning rate a step.
    """
    return max(0.01, GATE_TRAVEL / (window.last - window.first))


def multiplier_lr(window: GateWindow) -> float:
    """Learning rate of lambda: the paper's 0.01, or what a short window needs."""
    return max(0.01, MULTIPLIER_TRAVEL / (window.last - window.first))


@dataclass(frozen=True)
class SaLoRA(SaLoRASettings, Method):
    """Gates and factors on all of the training data.

    Args:
        gate_lr: learning rate of log theta; None for 0.01, or more in a window so short that
            0.01 a step would not reach the density: see :func:`gate_lr`.
        optimizer: of factors, head and, but for lr, schedule and decay, of log theta.
    """

    name: ClassVar[str] = "salora"
    targets: ClassVar[str | None] = "all"
    splits_fused: ClassVar[bool] = True
    gate_lr: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("gate_lr", self.gate_lr, self.gate_lr is None or self.gate_lr > 0, "above 0")

    def run(self, job: Job) -> Outcome:
        """One stage."""
        return job.stage("train", lambda stage: self._train(job, stage), last=True)

    def _train(self, job: Job, stage: StageRunner) -> Outcome:
        batches = loader(job)
        steps = total_steps(job, batches, job.settings.epochs)
        model, window = self.adapted(job, steps)
        gates, factors = window.gates, Factors(model)
        weights = trainable(model)
        optimizer, scheduler = self._optimizer(job, weights, window, steps)
        lower = GatesAndFactors(
            "lower",
            problem_config(job, hypergradient=NoHypergradient()),
            module=GatedModel(model, gates),
            optimizer=optimizer,
            scheduler=scheduler,
            train_data_loader=batches,
            gate_window=window,
            factors=factors,
            beta=self.beta,
            penalty=self.penalty(),
        )
        ascent = self.ascent(job, window) if self.constraint else None
        graph: dict[str, dict[Any, list[Any]]] = {"u2l": {}, "l2u": {}}
        if ascent is not None:
            graph = {"u2l": {ascent: [lower]}, "l2u": {lower: [ascent]}}
        stage.run(
            [lower] if ascent is None else [lower, ascent],
            graph,
            steps,
            model,
            gates=gates,
            watch=self.watch(window, factors, ascent),
        )
        window.close()
        keep = window.kept()
        return Outcome(
            model=model,
            ranks={name: int(mask.sum()) for name, mask in keep.items()},
            trainable_parameters=count(weights) + gates.logits.numel() + (ascent is not None),
            split={"train": len(job.data.examples)},
            keep=keep,
        )

    def _optimizer(
        self, job: Job, weights: list[nn.Parameter], window: GateWindow, steps: int
    ) -> tuple[torch.optim.Optimizer, Any]:
        """One optimiser; log theta is a group of its own, at a constant rate and without decay."""
        lr = job.settings.lr if job.settings.lr is not None else 5e-4
        rate = gate_lr(window) if self.gate_lr is None else self.gate_lr
        theta = {"params": [window.gates.logits], "lr": rate, "weight_decay": 0.0}
        groups: Any = [{"params": weights}, theta]
        optimizer, scheduler = optimizer_and_scheduler(self.optimizer, groups, steps, lr)
        optimizer.param_groups[1]["lr"] = rate  # the schedule has set its first value already
        scheduler.lr_lambdas[1] = lambda step: 1.0
        return optimizer, scheduler
