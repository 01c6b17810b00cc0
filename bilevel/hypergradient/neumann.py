r"""Implicit function theorem with the inverse Hessian as a truncated Neumann series.

    (dV/dE)^T v = - d2L1/dEdV H^{-1} v,      H^{-1} v ~ alpha * sum_{j=0..k} (I - alpha H)^j v

(Lorraine, Vicol, Duvenaud: Optimizing millions of hyperparameters by implicit differentiation,
AISTATS 2020, section 3), H = d2L1/dV2 on the last lower batch, randomness replayed, at the weights
after the lower steps. The series converges when alpha is below 2 / (largest eigenvalue of H).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bilevel.hypergradient.base import register
from bilevel.hypergradient.implicit_function import ImplicitFunction
from bilevel.settings import Natural, Positive

if TYPE_CHECKING:
    from torch import Tensor

    from bilevel.protocols import LowerLevel, UpperLevel

__all__ = ["Neumann"]


@register
@dataclass(frozen=True)
class Neumann(ImplicitFunction):
    """Truncated Neumann series."""

    name: ClassVar[str] = "neumann"
    iterations: Natural = 1
    """Terms after the first, one Hessian-vector product each."""
    alpha: Positive = 1.0
    """Step of the series."""

    def inverse(
        self,
        hessian: Callable[[Sequence[Tensor]], list[Tensor]],
        vector: list[Tensor],
        lower: LowerLevel,
        upper: UpperLevel,
    ) -> list[Tensor]:
        """alpha * sum_{j=0..k} (I - alpha H)^j v."""
        term = total = vector
        for _ in range(self.iterations):
            product = hessian(term)
            term = [t - self.alpha * h for t, h in zip(term, product, strict=True)]
            total = [s + t for s, t in zip(total, term, strict=True)]
        return [self.alpha * s for s in total]
