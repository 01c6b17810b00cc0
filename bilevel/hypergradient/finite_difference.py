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
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from bilevel.errors import UserError
from bilevel.hypergradient.base import Hypergradient, register
from bilevel.hypergradient.derivatives import ReplayedLoss, check_options, norm
from bilevel.replay.recording import Needs, StepRecord

if TYPE_CHECKING:
    from bilevel.problem import BilevelProblem

__all__ = ["FiniteDifference", "step_size"]


def step_size(epsilon: float | None, lower: BilevelProblem, difference: str = "central") -> float:
    """Length |eps v| of the perturbation; None chooses by the precision of the loss.

    Measured on MiniLM, SST-2, dropout 0.1 (docs/hypergradients.md): in fp32 a central difference is
    best at 0.01 (error 2e-4) and a forward one at 0.001 (1e-3); with bf16's 8 bits of mantissa
    rounding wants 0.1 (central 3e-2, forward 1.5e-1).
    """
    if epsilon is not None:
        return epsilon
    if getattr(lower, "precision", "fp32") != "fp32":
        return 1e-1
    return 1e-2 if difference == "central" else 1e-3


@register
@dataclass(frozen=True)
class FiniteDifference(Hypergradient):
    """Finite difference along v on the last lower batch.

    Args:
        scale: ``identity`` (Betty) or ``inner_lr`` (one-step DARTS: each parameter's current
            learning rate).
        difference: ``central`` (two more passes), ``forward`` (one: the gradient at the
            unperturbed point comes with the lower step's own backward pass), or ``auto``: forward
            in fp32, central in lower precision and at ``point=after``.
        epsilon: length of the perturbation eps v; None chooses by precision.
        point: weights at which to differentiate: ``before`` the last lower step, where its batch
            was used and where one-step unrolling is exact, or ``after`` it (Betty).
    """

    name: ClassVar[str] = "finite_difference"
    scale: str = "identity"
    difference: str = "auto"
    epsilon: float | None = None
    point: str = "before"

    def __post_init__(self) -> None:
        for option, allowed in (
            ("scale", ("identity", "inner_lr")),
            ("difference", ("auto", "central", "forward")),
            ("point", ("before", "after")),
        ):
            if getattr(self, option) not in allowed:
                raise UserError(
                    f"hypergradient finite_difference: {option}={getattr(self, option)!r} is "
                    f"unknown; allowed: {', '.join(allowed)}"
                )
        check_options(self.name, self.epsilon)
        if self.difference == "forward" and self.point == "after":
            raise UserError(
                "hypergradient finite_difference: difference=forward reuses the gradient taken "
                "before the step, so it needs point=before"
            )

    def resolve(self, lower: BilevelProblem) -> str:
        """``central`` or ``forward``, for this problem."""
        if self.difference != "auto":
            return self.difference
        recorded = hasattr(lower, "window")
        exact_enough = getattr(lower, "precision", "fp32") == "fp32"
        return "forward" if recorded and exact_enough and self.point == "before" else "central"

    def needs(self, lower: BilevelProblem) -> Needs:
        """The last step; with a forward difference also dL1/dE from its backward pass."""
        return Needs(
            depth=1,
            optimizer=self.scale == "inner_lr",
            upper_gradient=self.resolve(lower) == "forward",
        )

    def implicit_term(
        self, vector: Sequence[Tensor], lower: BilevelProblem, upper: BilevelProblem
    ) -> list[Tensor]:
        """See the module's docstring."""
        difference = self.resolve(lower)
        window = getattr(lower, "window", None)
        record = window.steps[-1] if window is not None and window.steps else None
        if record is not None and upper.name not in record.upper_gradient:
            if self.difference == "forward":
                raise UserError(
                    "hypergradient finite_difference: difference=forward needs a problem directly "
                    f"above, and {upper.name!r} is not directly above {lower.name!r}; use central"
                )
            difference = "central"
        if record is None:  # a plain Betty problem: same masks in both passes, new ones
            if difference == "forward" or self.scale == "inner_lr":
                raise UserError(
                    "hypergradient finite_difference: difference=forward and scale=inner_lr need "
                    f"a bilevel.LowerProblem, problem {lower.name!r} is a {type(lower).__name__}"
                )
            loss = ReplayedLoss(lower, upper, [(lower.cur_batch, None)])
            weights: Sequence[Tensor] = lower.trainable_parameters()
        else:
            values = window.upper_values.get(upper.name)  # type: ignore[union-attr]
            loss = ReplayedLoss(lower, upper, list(record.batches), values)
            weights = record.weights if self.point == "before" else lower.trainable_parameters()
        if self.scale == "inner_lr":
            vector = _times_learning_rate(vector, record)  # type: ignore[arg-type]
        return minus_mixed_product(
            loss,
            weights,
            vector,
            step_size(self.epsilon, lower, difference),
            record.upper_gradient[upper.name] if record and difference == "forward" else None,
        )


def minus_mixed_product(
    loss: ReplayedLoss,
    weights: Sequence[Tensor],
    vector: Sequence[Tensor],
    epsilon: float,
    base: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """- d2L1/dEdV v by a difference of step ``epsilon / |v|``; forward if ``base`` is dL1/dE(V)."""
    step = epsilon / (norm(vector) + torch.finfo(torch.float32).tiny)
    _, above = loss.gradient([w + step * v for w, v in zip(weights, vector, strict=True)], "upper")
    if base is not None:
        return [(b - a) / step for a, b in zip(above, base, strict=True)]
    _, below = loss.gradient([w - step * v for w, v in zip(weights, vector, strict=True)], "upper")
    return [(b - a) / (2 * step) for a, b in zip(above, below, strict=True)]


def _times_learning_rate(vector: Sequence[Tensor], record: StepRecord) -> list[Tensor]:
    assert record.snapshot is not None
    groups = [record.snapshot.hypers[g] for g in record.snapshot.group_of]
    return [v * group.lr for v, group in zip(vector, groups, strict=True)]
