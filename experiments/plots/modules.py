"""Where a module sits: which layer of the stack, and which part of it."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["grid", "place", "title"]


def place(name: str) -> tuple[int | None, str]:
    """Layer number and the rest: ``encoder.layer.3.attention.self.query`` -> (3, ...query)."""
    parts = name.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdecimal()]
    if not numbers:
        return None, name
    return int(parts[numbers[-1]]), ".".join(parts[numbers[-1] + 1 :])


def grid(names: Iterable[str]) -> tuple[list[int | None], list[str], dict[str, tuple[int, int]]]:
    """Layers and parts in order, and each name's (row of its part, column of its layer).

    Parts are shortened to their last word, or more where others end in the same.
    """
    names = list(names)
    places = {name: place(name) for name in names}
    layers = sorted({layer for layer, _ in places.values()}, key=lambda x: -1 if x is None else x)
    parts = list(dict.fromkeys(part for _, part in places.values()))
    cells = {
        name: (parts.index(part), layers.index(layer)) for name, (layer, part) in places.items()
    }
    return layers, _shortened(parts), cells


def title(part: str) -> str:
    """A part's name as the title of a small panel: long ones on two lines."""
    return part.replace(".", ".\n", 1) if len(part) > 14 else part


def _shortened(parts: list[str]) -> list[str]:
    """The shortest ending of each part that no other part has."""
    return [_shortest(part, [other for other in parts if other != part]) for part in parts]


def _shortest(part: str, others: list[str]) -> str:
    words = part.split(".")
    for count in range(1, len(words)):
        ending = ".".join(words[-count:])
        if not any(other == ending or other.endswith("." + ending) for other in others):
            return ending
    return part
