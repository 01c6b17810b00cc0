"""Put modules into groups that share a setting: each for itself, by kind, by layer, or all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from problems.lora_settings.record import GLOBAL, HEAD, OF_STEPS, SettingName

__all__ = ["Granularity", "groups_of", "labels_of"]

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


def labels_of(
    names: Iterable[SettingName], groups: Mapping[str, str], head: bool
) -> dict[SettingName, list[str]]:
    """Setting -> the groups that have a number of it each, in order; ``all`` for one for all.

    Args:
        names: of the settings.
        groups: adapted module -> its group.
        head: whether there is a head, a group of its own for the settings of steps.
    """
    adapted = list(dict.fromkeys(groups.values()))
    stepped = list(dict.fromkeys([*adapted, HEAD])) if head else adapted
    return {
        name: ["all"] if name in GLOBAL else stepped if name in OF_STEPS else adapted
        for name in names
    }


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
