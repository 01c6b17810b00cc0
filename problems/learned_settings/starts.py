"""Say where each learned setting starts, and between which bounds it stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt, Lt

from bilevel.settings import Positive, Settings
from problems.lora_settings.record import SettingName

__all__ = ["BOUND", "Starts"]

BOUND = 0.5  # of dropout and label smoothing

Bounded = Annotated[float, Gt(0), Lt(BOUND)]


@dataclass(frozen=True)
class Starts(Settings):
    """Of every group alike."""

    decay: Positive = 1e-3
    """Positive, learned as its logarithm."""
    learning_rate: Positive = 1.0
    """A factor, likewise."""
    weight_decay: Positive = 0.1
    """Positive, likewise: it starts where optimizer.weight_decay of all modules does."""
    scale: Positive = 1.0
    """A factor of alpha, likewise."""
    dropout: Bounded = 0.1
    """Between 0 and 0.5, learned as its logit."""
    label_smoothing: Bounded = 0.05
    """Likewise."""
    temperature: Positive = 1.0
    """Positive, learned as its logarithm."""

    def of(self, name: SettingName) -> float:
        """Of a setting."""
        value: float = vars(self)[name]
        return value
