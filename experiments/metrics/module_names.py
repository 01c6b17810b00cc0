"""Tell by a module's name in which layer of the stack it is, and which part of it."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["place", "shortened"]


def place(name: str) -> tuple[int | None, str]:
    """Layer number and the rest: ``encoder.layer.3.attention.self.query`` -> (3, ...query)."""
    parts = name.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdecimal()]
    if not numbers:
        return None, name
    return int(parts[numbers[-1]]), ".".join(parts[numbers[-1] + 1 :])


def shortened(parts: Sequence[str]) -> list[str]:
    """The shortest ending of each part that no other part has."""
    return [_shortest(part, [other for other in parts if other != part]) for part in parts]


def _shortest(part: str, others: list[str]) -> str:
    words = part.split(".")
    for count in range(1, len(words)):
        ending = ".".join(words[-count:])
        if not any(other == ending or other.endswith("." + ending) for other in others):
            return ending
    return part
