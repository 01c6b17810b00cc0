r"""DARTS' finite difference of the mixed derivative, with the lower step's randomness replayed.

    (dV/dE)^T v  ~  - d2L1/dEdV S v  ~  - [ dL1/dE(V + eps S v) - dL1/dE(V - eps S v) ] / (2 eps)

(Liu, Simonyan, Yang: DARTS, ICLR 2019, section 2.3, equation 8.) S = identity is Betty's reading
(implicit differentiation with the inverse Hessian replaced by the identity), S = learning rate is
one step of gradient descent, and DARTS' own.

All passes see the same batch *and the same dropout masks*. With independent masks, as in Betty, the
difference of two passes is mostly the difference of two masks, divided by a small number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from bilevel.errors import UserError
from bilevel.hypergradient.base import Hypergradient, register
from bilevel.hypergradient.shared import step_size
from bilevel.replay.recording import Needs, StepRecord
from bilevel.settings import Positive

if TYPE_CHECKING:
    from torch import Tensor

    from bilevel.protocols import LowerLevel, UpperLevel

__all__ = ["FiniteDifference"]


@register
@dataclass(frozen=True)
class FiniteDifference(Hypergradient):
    """Finite difference along v on the last lower batch."""

    name: ClassVar[str] = "finite_difference"
    needs_records: ClassVar[bool] = False
    scale: Literal["identity", "inner_lr"] = "identity"
    """``identity`` (Betty), or ``inner_lr`` (one-step DARTS: each parameter's current learning
    rate)."""
    difference: Literal["auto", "central", "forward"] = "auto"
    """``central`` (two more passes), ``forward`` (one: the gradient at the unperturbed point comes
    with the lower step's own backward pass), or ``auto``: forward in fp32, central in lower
    precision and at ``point=after``."""
    epsilon: Positive | None = None
    """Length of the perturbation eps v; null chooses by precision."""
    point: Literal["before", "after"] = "before"
    """Weights at which to differentiate: ``before`` the last lower step, where its batch was used
    and where one-step unrolling is exact, or ``after`` it (Betty)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.difference == "forward" and self.point == "after":
            raise UserError(
                "hypergradient finite_difference: difference=forward reuses the gradient taken "
                "before the step, so it needs point=before"
            )

    def resolve(self, lower: LowerLevel) -> str:
        """``central`` or ``forward``, for this problem."""
        if self.difference != "auto":
            return self.difference
        exact_enough = lower.precision == "fp32"
        return "forward" if exact_enough and self.point == "before" else "central"

    def needs(self, lower: LowerLevel) -> Needs:
        """The last step; with a forward difference also dL1/dE from its backward pass."""
        return Needs(
            depth=1,
            optimizer=self.scale == "inner_lr",
            upper_gradient=self.resolve(lower) == "forward",
        )

    def implicit_term(
        self, vector: Sequence[Tensor], lower: LowerLevel, upper: UpperLevel
    ) -> list[Tensor]:
        """See the module's docstring."""
        difference = self.resolve(lower)
        record = lower.recorded.last
        if upper.name not in record.upper_gradient:
            if self.difference == "forward":
                raise UserError(
                    "hypergradient finite_difference: difference=forward needs a parent of problem "
                    f"{lower.name!r}, and {upper.name!r} is none; use central"
                )
            difference = "central"
        weights = record.weights if self.point == "before" else lower.trainable_parameters()
        if self.scale == "inner_lr":
            vector = _times_learning_rate(vector, record)
        return lower.replayed_loss(upper).minus_mixed_product(
            weights,
            vector,
            step_size(self.epsilon, lower, difference),
            record.upper_gradient[upper.name] if difference == "forward" else None,
        )


def _times_learning_rate(vector: Sequence[Tensor], record: StepRecord) -> list[Tensor]:
    assert record.snapshot is not None
    groups = [record.snapshot.hypers[g] for g in record.snapshot.group_of]
    return [v * group.lr for v, group in zip(vector, groups, strict=True)]
