"""Say where a module is drawn: the column of its layer, the row of its part."""

from __future__ import annotations

from collections.abc import Iterable

from experiments.metrics.module_names import places, shortened

__all__ = ["grid", "title"]


def grid(names: Iterable[str]) -> tuple[list[int | None], list[str], dict[str, tuple[int, int]]]:
    """Layers and parts in order, and each name's (row of its part, column of its layer).

    Parts are shortened to their last word, or more where others end in the same.
    """
    names = list(names)
    placed = places(names)
    layers = sorted({layer for layer, _ in placed.values()}, key=lambda x: -1 if x is None else x)
    parts = list(dict.fromkeys(part for _, part in placed.values()))
    cells = {
        name: (parts.index(part), layers.index(layer)) for name, (layer, part) in placed.items()
    }
    return layers, shortened(parts), cells


def title(part: str) -> str:
    """A part's name as the title of a small panel: long ones on two lines."""
    return part.replace(".", ".\n", 1) if len(part) > 14 else part
