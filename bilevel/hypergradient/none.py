"""No implicit term: the two levels just alternate (AutoLoRA's eta = 0 ablation)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bilevel.hypergradient.base import Hypergradient, register
from bilevel.replay.recording import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from bilevel.protocols import LowerLevel, UpperLevel

__all__ = ["NoHypergradient"]


@register
@dataclass(frozen=True)
class NoHypergradient(Hypergradient):
    """dL2/dE = direct partial; V is treated as a constant."""

    name: ClassVar[str] = "none"
    is_zero: ClassVar[bool] = True
    needs_records: ClassVar[bool] = False
    knows_step_settings: ClassVar[bool] = True  # constant like all the rest

    def needs(self, lower: LowerLevel) -> Needs:
        """Nothing."""
        return Needs(depth=0)

    def implicit_term(
        self, vector: Sequence[Tensor], lower: LowerLevel, upper: UpperLevel
    ) -> list[Tensor]:
        """Zeros."""
        import torch

        return [torch.zeros_like(p) for p in upper.trainable_parameters()]
