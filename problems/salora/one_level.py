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

In this engine: factors, head and theta are one problem, the lower one; the multiplier is the upper
one: it has no data, maximises, and steps in the window only.

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
| R_orth | squared, summed, beta 0.1 | squared, mean over the matrices (``orth_reduce=sum``) |
| what is cut at T_end | gates whose expected value is 0 | all but the largest gates in the budget |
| what a kept gate becomes | keeps those above 0; their value is not said | its mean E[g] |
| gates at T_start | not said | from 1 to E[g] = 0.5 in one step: every update halves |
| lr of factors and head | tuned per task, 8e-5 to 1e-3 | train.lr, or 5e-4 |
| weight decay, warm-up | not said | 0.1 and 6 %, LoRA's |

Ablations: ``constraint=false prune=threshold`` (lambda = 0: the gates close as the task says) and
``beta=0``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bilevel.settings import Rate, Share
from problems import common
from problems.common import ALONE, DVal, Job, Outcome, Stage, Training
from problems.salora.settings import GATE_BETAS, SaLoRASettings, gate_lr

if TYPE_CHECKING:
    import torch
    from torch import nn

    from problems.salora.window import GateWindow

__all__ = ["SaLoRA"]


@dataclass(frozen=True)
class SaLoRA(SaLoRASettings):
    """Gates and factors on all of the training data."""

    name: ClassVar[str] = "salora"
    targets: ClassVar[str | None] = "all"
    splits_fused: ClassVar[bool] = True
    gate_lr: Rate | None = None
    """Learning rate of log theta, in the same optimiser as the factors; null for 0.01, or more in a
    window so short that 0.01 a step would not reach the density."""
    gate_betas: tuple[Share, Share] = GATE_BETAS
    """Adam's for log theta."""

    def held_out(self, own: bool) -> DVal:
        """The task's own validation split."""
        return "apart" if own else "nothing"

    def stages(self) -> Sequence[Stage]:
        """One stage, two problems; one without the constraint."""
        return (Stage("train", self.prepare),)

    def prepare(self, job: Job, found: None) -> Training:
        """Factors, head and gates on all of the data, the multiplier on their density."""
        from bilevel.hypergradient import NoHypergradient
        from bilevel.lowrank.attach import Factors
        from problems.salora.levels import GatedModel, GatesAndFactors
        from problems.salora.window import RecordedGates

        batches = common.loader(job)
        steps = common.total_steps(job, batches, job.settings.epochs)
        self.check_window(steps)
        model, window = self.adapted(job, steps)
        gates, factors = window.gates, Factors(model)
        weights = common.trainable(model)
        optimizer, scheduler = self._optimizer(job, weights, window, steps)
        lower = GatesAndFactors(
            "lower",
            common.problem_config(job, hypergradient=NoHypergradient()),
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

        def finish(stats: dict[str, float]) -> Outcome:
            split = {"train": len(job.data.examples)}
            return self.outcome(model, weights, window, ascent, split=split)

        return Training(
            [lower] if ascent is None else [lower, ascent],
            ALONE if ascent is None else {"u2l": {ascent: [lower]}, "l2u": {lower: [ascent]}},
            steps,
            model,
            finish,
            gates=RecordedGates(gates),
            watch=self.watch(window, factors, ascent),
            settled=min(window.last + 1, steps),
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
        optimizer, scheduler = common.optimizer_and_scheduler(
            self.optimizer, groups, steps, lr, job.settings.warmup_steps
        )
        scheduler.lr_lambdas[1] = window.left
        optimizer.param_groups[1]["lr"] = rate * window.left(0)  # the schedule's own is set already
        return optimizer, scheduler
