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
| lr of log theta, lambda | 0.01 | max(0.01, 40 / W), max(0.01, 60 / W) in a window of W steps |
| Adam's betas for log theta | not said | 0.8, 0.95 (why: ``GATE_BETAS``) |
| their schedule | linear (all) | log theta: linear to 0 in the window; lambda: constant; no decay |
| R_orth | squared, summed | squared, mean over the matrices, beta 0.1, in full precision |
| what is cut at T_end | gates whose expected value is 0 | all but the largest gates in the budget |
| what a kept gate becomes | keeps those above 0; their value is not said | its mean E[g] |
| gates at T_start | not said | from 1 to E[g] = 0.5 in one step: every update halves |
| lr of factors and head | tuned per task, 8e-5 to 1e-3 | train.lr, or 5e-4 |
| weight decay, warm-up | not said | 0.1 and 6 %, LoRA's |

Ablations: ``constraint=false prune=threshold`` (lambda = 0: the gates close as the task says) and
``beta=0``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from peft import PeftModel
from torch import Tensor, nn

from bilevel.hypergradient import NoHypergradient
from bilevel.lowrank import Gates
from bilevel.lowrank.attach import Factors
from problems.common.method import (
    Job,
    Method,
    Outcome,
    StageRunner,
    count,
    loader,
    problem_config,
    total_steps,
    trainable,
)
from problems.common.optimizer_settings import check_range, optimizer_and_scheduler
from problems.common.two_levels import full_precision
from problems.salora.shared import GATE_BETAS, GatedFineTuning, SaLoRASettings, gate_lr
from problems.salora.window import GateWindow

__all__ = ["SaLoRA"]


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
        """Never: the multiplier above has no loss but its own term."""
        return False

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
class SaLoRA(SaLoRASettings, Method):
    """Gates and factors on all of the training data.

    Args:
        gate_lr: learning rate of log theta, in the same optimiser as the factors; None for 0.01, or
            more in a window so short that 0.01 a step would not reach the density.
        gate_betas: Adam's for log theta.
    """

    name: ClassVar[str] = "salora"
    targets: ClassVar[str | None] = "all"
    splits_fused: ClassVar[bool] = True
    gate_lr: float | None = None
    gate_betas: tuple[float, float] = GATE_BETAS

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(
            "gate_lr", self.gate_lr, self.gate_lr is None or self.gate_lr > 0, "more than 0"
        )
        within = all(0 <= beta < 1 for beta in self.gate_betas)
        check_range("gate_betas", list(self.gate_betas), within, "in [0, 1)")

    def run(self, job: Job) -> Outcome:
        """One stage."""
        return job.stage("train", lambda stage: self._train(job, stage), last=True)

    def _train(self, job: Job, stage: StageRunner) -> Outcome:
        batches = loader(job)
        steps = total_steps(job, batches, job.settings.epochs)
        self.check_window(steps)
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
        """One optimiser; log theta is a group with a rate of its own, falling within the window."""
        lr = job.settings.lr if job.settings.lr is not None else 5e-4
        rate = gate_lr(window) if self.gate_lr is None else self.gate_lr
        theta: dict[str, Any] = {"params": [window.gates.logits], "lr": rate, "weight_decay": 0.0}
        if self.optimizer.name != "sgd":
            theta["betas"] = self.gate_betas
        groups: Any = [{"params": weights}, theta]
        optimizer, scheduler = optimizer_and_scheduler(
            self.optimizer, groups, steps, lr, job.settings.warmup_steps
        )
        scheduler.lr_lambdas[1] = window.left
        optimizer.param_groups[1]["lr"] = rate * window.left(0)  # the schedule's own is set already
        return optimizer, scheduler
