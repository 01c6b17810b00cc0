"""Tell by a module's name in which layer of the stack it is, and which part of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["places", "shortened"]


def places(names: Iterable[str]) -> dict[str, tuple[int | None, str]]:
    """Layer number and part of each module: ``encoder.layer.3.output.dense`` -> (3, output.dense).

    The layer is the first number: what stands behind another is a part of it (T5's
    ``block.3.layer.0.SelfAttention.q``, experts). Where there are several stacks, an encoder and a
    decoder, their names go before the part, so that no two modules share a place.
    """
    found: dict[str, tuple[int | None, list[str], str]] = {}
    for name in names:
        words = name.split(".")
        at = next((i for i, word in enumerate(words) if word.isdecimal()), None)
        if at is None:
            found[name] = (None, [], name)
        else:
            found[name] = (int(words[at]), words[:at], ".".join(words[at + 1 :]))
    stacks = [stack for layer, stack, _ in found.values() if layer is not None]
    common = set(stacks[0]).intersection(*stacks[1:]) if stacks else set()
    return {
        name: (layer, ".".join([*(word for word in stack if word not in common), part]))
        for name, (layer, stack, part) in found.items()
    }


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
