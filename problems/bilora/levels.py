r"""Train BiLoRA's two levels: singular vectors on D_train, singular values on D_val.

lower   L(V, E; D_train) + gamma1 R1(V)
upper   L(V*(E), E; D_val) + gamma2 R2(E)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from peft import PeftModel
from torch import Tensor

from bilevel.lowrank import entropy, gated_layers
from problems import common

__all__ = ["SingularValues", "SingularVectors", "factors"]


def factors(model: PeftModel) -> list[tuple[Tensor, Tensor]]:
    """(P, Q) of every layer, (out, r) and (r, in), without Lambda, as registered right now."""
    return [(layer.B, layer.A) for layer in gated_layers(model).values()]


class SingularVectors(common.FineTuning):
    """Lower level: L(V, E; D_train) + gamma1 R1(V).

    Args:
        penalty: R1 of the factors; gamma1: its weight.
    """

    def __init__(
        self, *args: Any, gamma1: float, penalty: Callable[..., Tensor], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.gamma1 = gamma1
        self.penalty = penalty

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss with its penalty, the latter in full precision."""
        loss = super().training_step(batch)
        if not self.gamma1:
            return loss
        with common.full_precision(self):
            return loss + self.gamma1 * self.penalty(factors(self.module))


class SingularValues(common.HeldOut):
    """Upper level: L(V, E; D_val) + gamma2 R2(E); gamma2 = 0 without R2."""

    def __init__(self, *args: Any, gamma2: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gamma2 = gamma2

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss, with the entropy of binary values."""
        loss = super().training_step(batch)
        if not self.gamma2:
            return loss
        with common.full_precision(self):
            return loss + self.gamma2 * entropy(self.module.values())
