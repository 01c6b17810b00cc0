"""Share what the estimators by the implicit function theorem have in common.

    (dV/dE)^T v = - d2L1/dEdV H^{-1} v,      H = d2L1/dV2,

on the last lower batch, randomness replayed, at the weights after the lower steps. They differ in
how they apply H^{-1}.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bilevel.hypergradient.second_order import SecondOrder
from bilevel.hypergradient.shared import (
    check_double_backward,
    resolve_product,
    step_size,
)
from bilevel.replay.recording import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from bilevel.protocols import LowerLevel, UpperLevel

__all__ = ["ImplicitFunction"]


@dataclass(frozen=True)
class ImplicitFunction(SecondOrder):
    """An estimator that solves with H; subclasses say how."""

    needs_records: ClassVar[bool] = False

    def needs(self, lower: LowerLevel) -> Needs:
        """The last step's batch and random state."""
        return Needs(depth=1, double_backward=self.differentiates_twice(lower))

    def prepare(self, lower: LowerLevel) -> None:
        """Refuse kernels that cannot be differentiated."""
        check_double_backward(lower, self.product)

    def implicit_term(
        self, vector: Sequence[Tensor], lower: LowerLevel, upper: UpperLevel
    ) -> list[Tensor]:
        """- d2L1/dEdV H^{-1} v."""
        hessian, mixed = lower.replayed_loss(upper).hessian_operator(
            lower.trainable_parameters(),
            resolve_product(self.product, lower),
            step_size(self.epsilon, lower),
        )
        return [-g for g in mixed(self.inverse(hessian, list(vector), lower, upper))]

    @abstractmethod
    def inverse(
        self,
        hessian: Callable[[Sequence[Tensor]], list[Tensor]],
        vector: list[Tensor],
        lower: LowerLevel,
        upper: UpperLevel,
    ) -> list[Tensor]:
        """H^{-1} v; ``hessian`` multiplies by H. The levels are for what is remembered of them."""
