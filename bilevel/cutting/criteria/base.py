"""Define what a criterion is: it scores components of all layers so that they can be compared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bilevel.settings import Settings

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor

    from bilevel.cutting.losses import Losses

__all__ = ["Criterion", "ScoringData"]


@dataclass(frozen=True)
class ScoringData:
    """Held-out examples that a criterion may learn from; never those that draw the frontier.

    Attributes:
        batches: padded, with ``labels``, on the model's device.
        losses: of the model as it is now, example by example, in evaluation mode.
    """

    batches: Sequence[dict[str, Tensor]]
    losses: Callable[[], Losses]


@dataclass(frozen=True)
class Criterion(Settings, ABC):
    """What a component is worth; subclasses are frozen dataclasses of their settings.

    Attributes:
        name: in options and records.
        needs_data: whether it looks at held-out examples.
    """

    name: ClassVar[str] = ""
    needs_data: ClassVar[bool] = False

    @abstractmethod
    def score(self, model: PeftModel, data: ScoringData | None) -> dict[str, Tensor]:
        """Rewrite the factors in the criterion's basis and score the components there.

        Args:
            model: with a finished adapter of plain LoRA; what it computes stays the same.
            data: None for a criterion without data.

        Returns:
            Layer -> (k,) what each component is worth **per parameter**, not negative, the larger
            the longer it is kept; k is the layer's rank in the model.
        """
