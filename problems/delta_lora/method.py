r"""Delta-LoRA (Zi et al., arXiv 2309.02411): the pretrained weight follows the low-rank product.

Factors A, B (and the head) train as in LoRA. From step K on, what a step adds to the product is
also added, lambda times, to the frozen weight, which itself has no gradient and no optimiser state:

    h = W x + s B A x,        s = alpha / r
    W <- W + lambda s (B_t A_t - B_{t-1} A_{t-1})        after step t = K+1, K+2, ...

The sum over the steps telescopes,

    W_T = W_0 + lambda s (B_T A_T - B_K A_K),

so that the trained layer is W_0 + s [(1 + lambda) B_T A_T - lambda B_K A_K]: a forward scale of
1 + lambda, a backward scale of 1 for A and B, and an update of rank 2r at most. Two modes compute
the same:

- ``factored``: W_0 stays as it is. A second, frozen branch of rank 2r beside LoRA's,
  [lambda B, -lambda B_K] [A; A_K], is refreshed after every step. No full-sized product is formed,
  nothing accumulates rounding, a checkpoint holds factors only, and the base may be quantised or
  shared; each adapted layer costs one more pair of thin products.
- ``in_place``: as published, W itself is changed, on an fp32 master copy where it is in half
  precision (single steps would vanish). A copy of W_0 is kept for the export.

Either way the outcome is one plain LoRA adapter on the untouched W_0, with the factors
[A_T; A_K] and [(1 + lambda) B_T, -lambda B_K]. Its rank is the one reported: 2r, but r when the
weight never moved (K >= T: then this is LoRA, exactly) or moved from the start (B_0 = 0).

| choice | paper | here (default) |
|---|---|---|
| mode | in place | ``factored``: equal, and needs less |
| lambda, K | GLUE 0.5, the warm-up's steps; GPT-2 2, 500; XSum 0.5, 1000 | GLUE's |
| first step that moves W | t > K | t counted from 1: K steps are plain LoRA |
| dropout | none in the low-rank branch | none; ``lora_dropout`` is on the trained branch only |
| weight decay | on A and B, so it moves W too | the same |
| rest | as LoRA; length 256 | as LoRA |

With t counted from 0 the same words would mean K + 1 plain steps, and the identity above would not
hold as the paper's equations give it; ``start_step=K+1`` has that. With dropout (the paper's
ablation) the gradient of B A is no longer that of W; the branch that stands for W's change has none
in either mode. No code is released; PEFT has no Delta-LoRA.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from bilevel.lowrank.layers import lora_layers
from problems.common.method import (
    Job,
    Method,
    Outcome,
    StageRunner,
    check_lora,
    count,
    loader,
    total_steps,
    trainable,
    with_lora,
)
from problems.common.one_level import ALONE, only_problem
from problems.common.optimizer_settings import (
    OptimizerSettings,
    check_choice,
    check_range,
    warm_up,
)
from problems.delta_lora.moving_weight import Factored, InPlace, MovingWeight

__all__ = ["DeltaLoRA"]

MODES: Mapping[str, type[MovingWeight]] = {"factored": Factored, "in_place": InPlace}


@dataclass(frozen=True)
class DeltaLoRA(Method):
    """LoRA whose product also moves the pretrained weight.

    Args:
        mode: ``factored`` or ``in_place``; equal results.
        ratio: lambda, how much of the product's change the weight takes over.
        start_step: K, optimiser steps of plain LoRA before; None for the schedule's warm-up.
        rank, lora_alpha, lora_dropout: as in LoRA; the paper removes the dropout.
        optimizer: of the factors and the head.
    """

    name: ClassVar[str] = "delta_lora"
    splits_fused: ClassVar[bool] = True
    mode: str = "factored"
    ratio: float = 0.5
    start_step: int | None = None
    rank: int = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(lr=None, weight_decay=0.1)
    )

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, list(MODES))
        check_range("ratio", self.ratio, self.ratio >= 0, "0 or more")
        first = self.start_step
        check_range("start_step", first, first is None or first >= 0, "0 or more")
        check_lora(self.rank, self.lora_dropout)

    def run(self, job: Job) -> Outcome:
        """One stage, one problem."""
        return job.stage("train", lambda stage: self._train(job, stage), last=True)

    def _train(self, job: Job, stage: StageRunner) -> Outcome:
        model = with_lora(job, self.rank, self.lora_alpha, self.lora_dropout)
        parameters = trainable(model)
        batches = loader(job)
        steps = total_steps(job, batches, job.settings.epochs)
        lr = job.settings.lr if job.settings.lr is not None else 5e-4
        warmup = warm_up(self.optimizer, steps, job.settings.warmup_steps)
        start = warmup if self.start_step is None else self.start_step
        options = {"ratio": self.ratio, "start_step": start}
        problem = only_problem(
            MODES[self.mode], job, model, batches, self.optimizer, steps, lr, **options
        )
        stage.run([problem], ALONE, steps, model)
        rebuilt = problem.rebuild()
        return Outcome(
            model=rebuilt,
            ranks={name: int(layer.r["default"]) for name, layer in lora_layers(rebuilt).items()},
            trainable_parameters=count(parameters),
            split={"train": len(job.data.examples)},
        )
