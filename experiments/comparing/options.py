"""Put a run's configuration into options of one word, without those that make no other method."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["PLACE", "START", "flat"]

PLACE = "task.data_dir"
START = "model.warm_start"
WHOLE = ("train.class_weights", "task.sources", "method.criterion_options")  # users' own names
# Where the data lie and where the run writes is no other method, and the seed makes the rows; nor
# is the run whose suspects were dropped, or how many they were found to be, or the folder of the
# run that this one began with, which may be another for each seed.
NO_VARIANT = ("seed", "run", "data_dir", PLACE, "suspects.run", "suspects.suspects", START)


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Dotted option -> its value as JSON."""
    found: dict[str, str] = {}
    for name, value in values.items():
        key = f"{above}{name}"
        if key in NO_VARIANT:
            continue
        if isinstance(value, Mapping) and value and key not in WHOLE:
            found |= flat(value, f"{key}.")
        else:
            found[key] = json.dumps(value, sort_keys=True)
    return found
