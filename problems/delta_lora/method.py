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

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from bilevel import lowrank
from bilevel.settings import Natural, NonNegative
from problems import common
from problems.common import (
    ALONE,
    DVal,
    Job,
    LowRankMethod,
    OptimizerSettings,
    Outcome,
    Stage,
    Training,
)

__all__ = ["DeltaLoRA"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeltaLoRA(LowRankMethod):
    """LoRA whose product also moves the pretrained weight; the paper has no dropout."""

    name: ClassVar[str] = "delta_lora"
    two_rates: ClassVar[bool] = True
    splits_fused: ClassVar[bool] = True
    mode: Literal["factored", "in_place"] = "factored"
    """Keep the weight and add a frozen branch to it, or change the weight itself: equal results."""
    ratio: NonNegative = 0.5
    """lambda, how much of the product's change the weight takes over."""
    start_step: Natural | None = None
    """K, optimiser steps of plain LoRA before; null for the schedule's warm-up."""
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(lr=None, weight_decay=0.1)
    )
    """Of the factors and the head."""

    @property
    def needs_whole_base(self) -> str:
        """See :class:`Method`."""
        if self.mode == "in_place":
            return "changes the pretrained weights; take method.mode=factored, its equal"
        return super().needs_whole_base

    def held_out(self, own: bool) -> DVal:
        """The task's own validation split."""
        return "apart" if own else "nothing"

    def stages(self) -> Sequence[Stage]:
        """One stage, one problem."""
        return (Stage("train", self.prepare),)

    def prepare(self, job: Job, found: None) -> Training:
        """Factors and head on all of the data, the weight after them."""
        from problems.delta_lora.moving_weight import MODES

        model = common.with_lora(job, self.rank, self.lora_alpha, self.lora_dropout)
        parameters = common.trainable(model)
        batches = common.loader(job)
        steps = common.total_steps(job, batches, job.settings.epochs)
        lr = job.settings.lr if job.settings.lr is not None else 5e-4
        warmup = common.warm_up(self.optimizer, steps, job.settings.warmup_steps)
        if self.optimizer.schedule == "constant":  # which has no warm-up
            warmup = 0
        start = warmup if self.start_step is None else self.start_step
        if start >= steps:
            log.warning(
                "%s=%d is not less than this training's %d steps: no weight follows its adapter",
                "the warm-up" if self.start_step is None else "method.start_step",
                *(start, steps),
            )
        problem = common.only_problem(
            *(MODES[self.mode], job, model, batches, self.optimizer, steps, lr),
            ratio=self.ratio,
            start_step=start,
        )

        def finish(stats: dict[str, float]) -> Outcome:
            rebuilt = problem.rebuild()
            layers = lowrank.lora_layers(rebuilt)
            return Outcome(
                model=rebuilt,
                ranks={name: int(layer.r["default"]) for name, layer in layers.items()},
                trainable_parameters=common.count(parameters),
                split={"train": len(job.data.examples)},
            )

        return Training([problem], ALONE, steps, model, finish)
