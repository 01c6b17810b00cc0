"""Read configurations of before: what classes were called then, and options that are gone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["up_to_date"]

# A class in a user's YAML file or an old run's configuration -> where it is now.
TARGETS = {
    "problems.salora_bilevel.SaLoRABilevel": "problems.salora.SaLoRABilevel",
    "experiments.planted_model.PlantedModel": "experiments.models.PlantedModel",
}
# Options that had no effect.
GONE = {"bilevel.hypergradient.ConjugateGradient": ("alpha",)}


def up_to_date(node: Mapping[str, Any]) -> dict[str, Any]:
    """A group's values, with the class's name of today and without options that are gone."""
    values = dict(node)
    if "_target_" in values:
        values["_target_"] = TARGETS.get(str(values["_target_"]), values["_target_"])
        for key in GONE.get(str(values["_target_"]), ()):
            values.pop(key, None)
    return values
