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

from torch import Tensor

from bilevel.errors import UserError
from bilevel.hypergradient.base import Hypergradient, register
from bilevel.hypergradient.derivatives import ReplayedLoss, check_double_backward, check_options
from bilevel.hypergradient.finite_difference import step_size
from bilevel.hypergradient.unrolled import resolve_product
from bilevel.replay.recording import Needs

if TYPE_CHECKING:
    from bilevel.problem import BilevelProblem

__all__ = ["ImplicitFunction", "Neumann"]


@dataclass(frozen=True)
class ImplicitFunction(Hypergradient):
    """What the implicit-function estimators share: they differ in how they apply H^{-1}.

    Args:
        iterations: Hessian-vector products to spend on H^{-1} v.
        alpha: see the subclass.
        product: how to take second-order products, as for ``unrolled``.
        epsilon: length of the perturbation of a central difference; None chooses by precision.
    """

    iterations: int = 1
    alpha: float = 1.0
    product: str = "auto"
    epsilon: float | None = None

    def __post_init__(self) -> None:
        if self.iterations < 0 or self.alpha <= 0:
            raise UserError(
                f"hypergradient {self.name}: iterations must be 0 or more and alpha positive, got "
                f"iterations={self.iterations}, alpha={self.alpha}"
            )
        check_options(self.name, self.epsilon, self.product)

    def needs(self, lower: BilevelProblem) -> Needs:
        """The last step's batch and random state."""
        exact = resolve_product(self.product, lower) == "double_backward"
        return Needs(depth=1, double_backward=exact)

    def prepare(self, lower: BilevelProblem) -> None:
        """Refuse kernels that cannot be differentiated."""
        check_double_backward(lower, self.product)

    def implicit_term(
        self, vector: Sequence[Tensor], lower: BilevelProblem, upper: BilevelProblem
    ) -> list[Tensor]:
        """- d2L1/dEdV H^{-1} v."""
        window = getattr(lower, "window", None)
        if window is not None and window.steps:
            batches = list(window.steps[-1].batches)
            values = window.upper_values.get(upper.name)
        else:
            batches, values = [(lower.cur_batch, None)], None
        loss = ReplayedLoss(lower, upper, batches, values)
        hessian, mixed = loss.hessian_operator(
            lower.trainable_parameters(),
            resolve_product(self.product, lower),
            step_size(self.epsilon, lower),
        )
        return [-g for g in mixed(self.inverse(hessian, list(vector)))]

    def inverse(
        self, hessian: Callable[[Sequence[Tensor]], list[Tensor]], vector: list[Tensor]
    ) -> list[Tensor]:
        """H^{-1} v."""
        raise NotImplementedError


@register
@dataclass(frozen=True)
class Neumann(ImplicitFunction):
    """``iterations`` = k and ``alpha`` of the series above."""

    name: ClassVar[str] = "neumann"

    def inverse(
        self, hessian: Callable[[Sequence[Tensor]], list[Tensor]], vector: list[Tensor]
    ) -> list[Tensor]:
        """alpha * sum_{j=0..k} (I - alpha H)^j v."""
        term = total = vector
        for _ in range(self.iterations):
            product = hessian(term)
            term = [t - self.alpha * h for t, h in zip(term, product, strict=True)]
            total = [s + t for s, t in zip(total, term, strict=True)]
        return [self.alpha * s for s in total]
