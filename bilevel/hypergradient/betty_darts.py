"""Betty's own ``darts``, fresh dropout masks in each pass and all: what the papers' code ran."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bilevel.hypergradient.base import Hypergradient, register
from bilevel.replay.recording import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from bilevel.protocols import LowerLevel, UpperLevel

__all__ = ["BettyDarts"]


@register
@dataclass(frozen=True)
class BettyDarts(Hypergradient):
    """The stock routine, for comparison: under dropout it mostly returns noise.

    A central difference of the last lower batch's gradient, at the weights after the step moved by
    +- 0.01 v / |v|, where the two passes draw dropout masks of their own. Use
    ``finite_difference``, the same without that noise, for anything else.
    """

    name: ClassVar[str] = "betty_darts"

    def needs(self, lower: LowerLevel) -> Needs:
        """The last step's batches."""
        return Needs(depth=1)

    def implicit_term(
        self, vector: Sequence[Tensor], lower: LowerLevel, upper: UpperLevel
    ) -> list[Tensor]:
        """Betty's approximation of -(d2 L1 / dE dV) v."""
        import torch
        from betty.hypergradient.darts import darts

        from bilevel.gradients import added, mean_over_ranks

        total = [torch.zeros_like(p) for p in upper.trainable_parameters()]
        problem: Any = lower
        for micro, _ in lower.recorded.last.batches:
            if micro.counts or lower.world.shards_base:
                problem.cur_batch = micro.batch
                part = darts(list(vector), lower, upper, False)
                if micro.counts:
                    total = added(total, [micro.weighted(g) for g in part])
        return mean_over_ranks(total, upper.trainable_parameters(), lower.world)
