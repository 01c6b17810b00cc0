r"""DyLoRA (Valipour et al., EACL 2023, arXiv 2210.07558): one adapter for every rank up to r.

At every step a rank b is drawn from 1..r, and only the first b components take part:

    h = W_0 x + (alpha / b) B[:, :b] A[:b] x,        b ~ U{1, ..., r}

so that the components come to be ordered by importance, and the adapter may be cut to its first b
components afterwards, with the scale alpha / b, without training again. ``export_rank`` is where
the saved one is cut.

``frozen`` is the paper's quicker variant: at a step that drew b, the gradient goes to component b
alone; those before it take part, but stay.

| choice | paper | released code | here (default) |
|---|---|---|---|
| distribution of b | uniform, from 1 to the rank | - | uniform, one draw an optimiser step |
| scale | alpha / b | (alpha / r) (r / b) | alpha / b |
| frozen | only component b is updated | only it has a gradient | only it has a gradient |
| rank of the result | any | any | r (``export_rank``) |
| optimiser, targets | as LoRA | as LoRA | as LoRA: AdamW, q and v |

What the last column says where "-" stands beside it is ours. A component without a gradient still
moves a little, by AdamW's moments and decay; that is so in the released code too, in both variants.
The evaluations during training are those of the adapter as it will be saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from bilevel import lowrank
from bilevel.errors import UserError
from bilevel.settings import Count, Positive
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

__all__ = ["DyLoRA"]


@dataclass(frozen=True)
class DyLoRA(LowRankMethod):
    """LoRA that can be cut to any rank up to ``rank``."""

    name: ClassVar[str] = "dylora"
    two_rates: ClassVar[bool] = True
    splits_fused: ClassVar[bool] = True
    rank: Count = 8
    """r, the largest rank."""
    lora_alpha: Positive = 16.0
    """alpha; the update of rank b is scaled by alpha / b."""
    frozen: bool = False
    """Let only the last of the components drawn learn."""
    export_rank: Count | None = None
    """b of the saved adapter and of all evaluations; null for r."""
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(lr=None, weight_decay=0.1)
    )
    """Of the factors and the head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        b = self.export_rank
        if b is not None and b > self.rank:
            raise UserError(f"method.export_rank={b}: this must be method.rank={self.rank} or less")

    def held_out(self, own: bool) -> DVal:
        """The task's own validation split."""
        return "apart" if own else "nothing"

    def stages(self) -> Sequence[Stage]:
        """One stage, one problem."""
        return (Stage("train", self.prepare),)

    def prepare(self, job: Job, found: None) -> Training:
        """LoRA on all of the data, at another rank with every step."""
        from problems.dylora.levels import Prefix, RandomRank

        model = common.with_lora(job, self.rank, self.lora_alpha, self.lora_dropout)
        names = list(lowrank.lora_layers(model))
        prefix = Prefix(names, self.rank, self.export_rank or self.rank)
        lowrank.attach_gates(model, prefix)
        parameters = common.trainable(model)
        batches = common.loader(job)
        steps = common.total_steps(job, batches, job.settings.epochs)
        lr = job.settings.lr if job.settings.lr is not None else 5e-4
        problem = common.only_problem(
            *(RandomRank, job, model, batches, self.optimizer, steps, lr),
            prefix=prefix,
            frozen=self.frozen,
        )

        def finish(stats: dict[str, float]) -> Outcome:
            return Outcome(
                model=model,
                ranks=dict.fromkeys(names, prefix.final),
                trainable_parameters=common.count(parameters),
                split={"train": len(job.data.examples)},
            )

        return Training([problem], ALONE, steps, model, finish)
