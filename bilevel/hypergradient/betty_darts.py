"""Betty's own ``darts``, fresh dropout masks in each pass and all: what the papers' code ran."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

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
        """Nothing: it reads the problem's latest batch."""
        return Needs(depth=0)

    def implicit_term(
        self, vector: Sequence[Tensor], lower: LowerLevel, upper: UpperLevel
    ) -> list[Tensor]:
        """Betty's approximation of -(d2 L1 / dE dV) v."""
        from betty.hypergradient.darts import darts

        return list(darts(list(vector), lower, upper, False))
