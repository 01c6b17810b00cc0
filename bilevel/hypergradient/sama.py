r"""SAMA: the identity approximation, aware of an adaptive optimiser.

    (dV/dE)^T v  ~  - d2L1/dEdV (D v),      D = diag(d update / d gradient)

(Choe, Mehta, Ahn, Neiswanger, Xie, Strubell, Xing: Making scalable meta learning practical,
NeurIPS 2023, section 3.) D is the derivative of the lower optimiser's last step with respect to its
gradient. Betty's formula for Adam leaves out the bias correction; here D is that of the step as it
was taken. For SGD, D = identity, as in Betty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from bilevel.hypergradient.base import Hypergradient, last_step, register
from bilevel.hypergradient.derivatives import ReplayedLoss, check_options
from bilevel.hypergradient.finite_difference import minus_mixed_product, step_size
from bilevel.hypergradient.optimizers import check_supported
from bilevel.hypergradient.unrolled import step_through
from bilevel.replay.recording import Needs

if TYPE_CHECKING:
    from bilevel.problem import BilevelProblem

__all__ = ["Sama"]


@register
@dataclass(frozen=True)
class Sama(Hypergradient):
    """Replayed central difference along D v.

    Args:
        epsilon: length of the perturbation; None chooses by precision.
    """

    name: ClassVar[str] = "sama"
    epsilon: float | None = None

    def __post_init__(self) -> None:
        check_options(self.name, self.epsilon)

    def needs(self, lower: BilevelProblem) -> Needs:
        """The last step with the optimiser's state before it."""
        return Needs(depth=1, optimizer=True)

    def prepare(self, lower: BilevelProblem) -> None:
        """Refuse optimisers whose step is unknown."""
        check_supported(lower.optimizer)

    def implicit_term(
        self, vector: Sequence[Tensor], lower: BilevelProblem, upper: BilevelProblem
    ) -> list[Tensor]:
        """See the module's docstring."""
        record = last_step(lower, self.name)
        if not isinstance(lower.optimizer, torch.optim.SGD):
            _, a_grads, _ = step_through(record, vector, [{} for _ in vector])
            vector = [-a for a in a_grads]  # the step is minus the update
        loss = ReplayedLoss(
            lower, upper, list(record.batches), lower.window.upper_values.get(upper.name)
        )
        epsilon = step_size(self.epsilon, lower)
        return minus_mixed_product(loss, record.weights, vector, epsilon)
