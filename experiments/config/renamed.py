"""Read configurations of before: renamed classes, options that are gone, and those that are new."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from bilevel.settings import Settings, defaults
from experiments.config.schema import GROUPS, SECTIONS, section_defaults

__all__ = ["completed", "up_to_date"]

# A class in a user's YAML file or an old run's configuration -> where it is now.
TARGETS = {
    "problems.salora_bilevel.SaLoRABilevel": "problems.salora.SaLoRABilevel",
    "experiments.planted_model.PlantedModel": "experiments.models.PlantedModel",
}
# Options that had no effect.
GONE = {"bilevel.hypergradient.ConjugateGradient": ("alpha",)}
# method.unroll_steps=auto is a horizon with this cosine.
AUTO, HORIZON = "auto", 0.9


def up_to_date(node: Mapping[str, Any]) -> dict[str, Any]:
    """A group's values, with the class's name of today and without options that are gone.

    ``unroll_steps=auto`` becomes ``horizon``.
    """
    values = dict(node)
    if "_target_" in values:
        values["_target_"] = TARGETS.get(str(values["_target_"]), values["_target_"])
        for key in GONE.get(str(values["_target_"]), ()):
            values.pop(key, None)
    if values.get("unroll_steps") == AUTO:
        del values["unroll_steps"]
        if values.get("horizon") is None:
            values["horizon"] = HORIZON
    return values


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as it would be written today: options newer than it have their defaults.

    Args:
        config: plain values of a run, of any version.
    """
    values = dict(config)
    for group in GROUPS:
        node = values.get(group)
        if not isinstance(node, Mapping) or "_target_" not in node:
            continue
        values[group] = node = up_to_date(node)
        module, _, name = str(node["_target_"]).rpartition(".")
        # A class that this process has not asked for is another run's, and need not be known.
        known = getattr(sys.modules.get(module), name, None)
        if isinstance(known, type) and issubclass(known, Settings):
            values[group] = _over(defaults(known), node)
    for name in SECTIONS:
        if isinstance(values.get(name), Mapping):
            values[name] = _over(section_defaults(name), values[name])
    return values


def _over(default: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """What is ``said``, else the ``default``; mappings one by one."""
    merged = {**default, **said}
    for key, value in default.items():
        if isinstance(value, Mapping) and isinstance(said.get(key), Mapping):
            merged[key] = _over(value, said[key])
    return merged
