"""Score what the lower level has learned as it will be used: the plain loss in evaluation mode."""

from __future__ import annotations

from torch import Tensor

from bilevel.evaluation import evaluating
from problems import common

__all__ = ["EvaluatedHeldOut"]


class EvaluatedHeldOut(common.HeldOut):
    """Upper level: L(V, E; D_val) without smoothing, decay or dropout, the backbone's neither."""

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss of the model in evaluation mode; its scales and temperature are part of it."""
        with evaluating(self.lower.module):
            return super().training_step(batch)
