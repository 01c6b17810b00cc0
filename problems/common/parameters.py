"""Find, count and choose the parameters that are trained."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["count", "train_only", "trainable"]


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Parameters that require a gradient."""
    return [p for p in model.parameters() if p.requires_grad]


def count(parameters: Sequence[Tensor]) -> int:
    """Number of elements."""
    return sum(p.numel() for p in parameters)


def train_only(model: nn.Module, names: Collection[str], modules: Collection[str]) -> None:
    """Freeze all parameters but those named, and those of the named modules (the head)."""
    for name, parameter in model.named_parameters():
        inside = any(name.startswith(f"{module}.") for module in modules)
        parameter.requires_grad_(inside or name in names)
