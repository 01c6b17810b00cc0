"""Put modules into groups that share a setting: each for itself, by kind, by layer, or all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

__all__ = ["Granularity", "groups_of"]

Granularity = Literal["module", "kind", "layer", "all"]


def groups_of(names: Iterable[str], granularity: Granularity) -> dict[str, str]:
    """Module -> the name of its group.

    A module's layer is what stands up to the first number in its name, its kind the rest:
    ``encoder.layer.3.output.dense`` is ``output.dense`` of ``encoder.layer.3``. A module without a
    number is a kind, and a layer, of its own.

    Args:
        names: full names of modules.
        granularity: ``module`` (a group each), ``kind``, ``layer`` or ``all`` (one group).
    """
    return {name: _group(name, granularity) for name in names}


def _group(name: str, granularity: Granularity) -> str:
    if granularity == "module":
        return name
    if granularity == "all":
        return "all"
    words = name.split(".")
    at = next((i for i, word in enumerate(words) if word.isdecimal()), None)
    if at is None:
        return name
    return ".".join(words[: at + 1] if granularity == "layer" else words[at + 1 :])
