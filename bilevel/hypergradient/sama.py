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

from bilevel.hypergradient.base import Hypergradient, register
from bilevel.hypergradient.shared import step_size, step_through
from bilevel.replay.recording import Needs
from bilevel.settings import Positive

if TYPE_CHECKING:
    from torch import Tensor

    from bilevel.protocols import LowerLevel, UpperLevel

__all__ = ["Sama"]


@register
@dataclass(frozen=True)
class Sama(Hypergradient):
    """Replayed central difference along D v."""

    name: ClassVar[str] = "sama"
    epsilon: Positive | None = None
    """Length of the perturbation; null chooses by precision."""

    def needs(self, lower: LowerLevel) -> Needs:
        """The last step with the optimiser's state before it."""
        return Needs(depth=1, optimizer=True)

    def prepare(self, lower: LowerLevel) -> None:
        """Refuse optimisers whose step is unknown."""
        from bilevel.hypergradient.optimizer_state import check_supported

        check_supported(lower.optimizer)

    def implicit_term(
        self, vector: Sequence[Tensor], lower: LowerLevel, upper: UpperLevel
    ) -> list[Tensor]:
        """See the module's docstring."""
        import torch

        record = lower.recorded.last
        if not isinstance(lower.optimizer, torch.optim.SGD):
            _, a_grads, _ = step_through(record, vector, [{} for _ in vector])
            vector = [-a for a in a_grads]  # the step is minus the update
        loss = lower.replayed_loss(upper)
        return loss.minus_mixed_product(record.weights, vector, step_size(self.epsilon, lower))
