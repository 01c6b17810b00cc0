"""Share what every method with LoRA's factors can be told: their rank, scale and dropout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from bilevel.errors import UserError
from bilevel.settings import Count, Positive, Share
from problems import common
from problems.common.method import Method
from problems.common.peft_options import PeftOptions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["LowRankMethod", "check_window"]


@dataclass(frozen=True)
class LowRankMethod(Method):
    """A method whose update of a matrix is s B A, s = alpha / r.

    Attributes:
        refuses: why it does not take some of ``peft``: ``scale`` (rsLoRA's), ``start`` (any but
            PEFT's own), ``moved`` (one in the base's own weights), ``orthogonal``.
    """

    refuses: ClassVar[dict[str, str]] = dict.fromkeys(
        ("scale", "start"), "which has a scale and a start of its own"
    )
    rank: Count = 8
    """r, components of every layer's update."""
    lora_alpha: Positive = 16.0
    """alpha; the update is scaled by alpha / r."""
    lora_dropout: Share = 0.0
    """Dropout on the input of the low-rank branch."""
    peft: PeftOptions = field(default_factory=PeftOptions)
    """PEFT's own options, passed on: {use_rslora: true, init_lora_weights: pissa}."""

    def __post_init__(self) -> None:
        super().__post_init__()
        start = self.peft.init_lora_weights
        asked = {
            "scale": self.peft.use_rslora,
            "start": start is not True,
            "moved": self.peft.moves_base,
            "orthogonal": start == "orthogonal",
        }
        for what, reason in self.refuses.items():
            if asked[what]:
                option = "use_rslora=true" if what == "scale" else f"init_lora_weights={start}"
                raise UserError(
                    f"method.peft.{option} does not go with method={self.name}, {reason}: leave it "
                    "out, or take method=lora"
                )
        if asked["orthogonal"] and self.rank % 2:
            raise UserError(
                f"method.peft.init_lora_weights=orthogonal needs an even method.rank, not "
                f"{self.rank}"
            )

    @property
    def moves_base(self) -> bool:
        """See :class:`Method`."""
        return self.peft.moves_base

    @property
    def needs_whole_base(self) -> str:
        """See :class:`Method`; PEFT's start eva passes the data through the base beforehand."""
        if self.peft.init_lora_weights == "eva":
            return (
                "starts from what the layers are given, before the base is shared out; take "
                "method.peft.init_lora_weights=true"
            )
        return super().needs_whole_base

    def check_model(self, model: PreTrainedModel, target_modules: Sequence[str]) -> None:
        """A rank is no larger than a layer.

        Raises:
            UserError: it is, or the factors cannot start in such layers.
        """
        self.check_start(model, target_modules)
        common.check_rank(model, target_modules, self.rank)

    def check_start(self, model: PreTrainedModel, target_modules: Sequence[str]) -> None:
        """Refuse OLoRA's start in GPT-2's transposed maps, where PEFT takes it of the wrong matrix.

        Raises:
            UserError: one of the layers is such a map.
        """
        from transformers.pytorch_utils import Conv1D

        if self.peft.init_lora_weights == "olora" and any(
            isinstance(model.get_submodule(name), Conv1D) for name in target_modules
        ):
            raise UserError(
                "method.peft.init_lora_weights=olora does not suit GPT-2's kind of layers, which "
                "PEFT would start at another function: take pissa"
            )


def check_window(start: float, end: float) -> None:
    """Gates that learn from one share of the steps to another need some in between.

    Raises:
        UserError: the first is not less than the second.
    """
    if start >= end:
        raise UserError(
            f"method.start={start} must be less than method.end={end}: the gates learn in between"
        )
