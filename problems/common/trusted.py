"""Share what methods have that weight the training data by what a trusted D_val says of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bilevel.errors import UserError
from problems.common.low_rank import LowRankMethod
from problems.common.records import TrainSettings
from problems.common.two_levels import (
    TwoLevelMethod,
    check_acts_through_weights,
    check_plain_losses,
)

if TYPE_CHECKING:
    from bilevel import Hypergradient

__all__ = ["LearnedWeights", "check_several"]


@dataclass(frozen=True)
class LearnedWeights(LowRankMethod, TwoLevelMethod):
    """LoRA on D_train under weights that are learned on D_val, whose loss has none in it.

    Attributes:
        weighted: of what they are, in words.
    """

    weighted: ClassVar[str] = ""
    streams: ClassVar[bool] = False
    two_rates: ClassVar[bool] = True
    refuses: ClassVar[dict[str, str]] = {}
    splits_fused: ClassVar[bool] = True

    def check_hypergradient(self, estimator: Hypergradient) -> None:
        """All of the gradient of the weights is the implicit term.

        Raises:
            UserError: the estimator has none for them.
        """
        check_acts_through_weights(estimator, self.name, f"the weights of the {self.weighted}")

    def check_steps(self, examples: int, settings: TrainSettings) -> None:
        """Nor do weights go with a smoothed loss, which is no sum over examples here.

        Raises:
            UserError: ``train.label_smoothing`` or ``train.class_weights``, or as other
                methods on two levels.
        """
        check_plain_losses(settings, f"method={self.name}")
        super().check_steps(examples, settings)


def check_several(settings: TrainSettings, otherwise: str = "") -> None:
    """Refuse steps of a single example, whose weight would fall out of them.

    Args:
        settings: batch size and accumulation.
        otherwise: what to give instead, if there is more than a larger batch.

    Raises:
        UserError: they are.
    """
    if settings.batch_size * settings.gradient_accumulation == 1:
        raise UserError(
            "train.batch_size=1: a weight here counts relative to those of the other examples of "
            "its step, and there are none; give train.batch_size=2 or more, or "
            f"train.gradient_accumulation=2 or more{otherwise}"
        )
