"""Share what estimators have that take second-order products of the lower loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bilevel.hypergradient.base import Hypergradient
from bilevel.hypergradient.shared import Product, resolve_product
from bilevel.settings import Positive

if TYPE_CHECKING:
    from bilevel.protocols import LowerLevel

__all__ = ["SecondOrder"]


@dataclass(frozen=True)
class SecondOrder(Hypergradient):
    """An estimator by Hessian-vector and mixed products."""

    product: Product = "auto"
    """Second-order products by ``double_backward``, by a replayed ``central_difference``, or
    ``auto``: the former where the attention kernel allows it."""
    epsilon: Positive | None = None
    """Length of the perturbation of a central difference; null chooses by precision."""

    @property
    def twice(self) -> bool:
        """Whether ``product`` is double backward by choice."""
        return self.product == "double_backward"

    def differentiates_twice(self, lower: LowerLevel) -> bool:
        """Whether ``product`` is double backward for this level, by choice or by ``auto``."""
        return resolve_product(self.product, lower) == "double_backward"
