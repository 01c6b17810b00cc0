"""Share what every method with LoRA's factors can be told: their rank, scale and dropout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bilevel.errors import UserError
from bilevel.settings import Count, Positive, Share
from problems import common
from problems.common.method import Method

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["LowRankMethod", "check_window"]


@dataclass(frozen=True)
class LowRankMethod(Method):
    """A method whose update of a matrix is s B A, s = alpha / r."""

    rank: Count = 8
    """r, components of every layer's update."""
    lora_alpha: Positive = 16.0
    """alpha; the update is scaled by alpha / r."""
    lora_dropout: Share = 0.0
    """Dropout on the input of the low-rank branch."""

    def check_model(self, model: PreTrainedModel, target_modules: Sequence[str]) -> None:
        """A rank is no larger than a layer.

        Raises:
            UserError: it is.
        """
        common.check_rank(model, target_modules, self.rank)


def check_window(start: float, end: float) -> None:
    """Gates that learn from one share of the steps to another need some in between.

    Raises:
        UserError: the first is not less than the second.
    """
    if start >= end:
        raise UserError(
            f"method.start={start} must be less than method.end={end}: the gates learn in between"
        )
