"""Tell runs apart that differ in more than their seed, whatever their command lines say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["flat", "name_alike", "told_apart"]

# Where the data lie and where the run writes is no other method, and the seed makes the rows; nor
# is the run whose suspects were dropped, or how many they were found to be.
WHOLE = ("train.class_weights", "task.sources", "method.criterion_options")  # users' own names
NO_VARIANT = ("seed", "run", "task.data_dir", "suspects.run", "suspects.suspects")


def name_alike(results: Sequence[dict[str, Any]]) -> None:
    """Give runs of one configuration one ``variant``, whatever words they were started with.

    ``train.lr=1e-3`` says what ``train.lr=0.001`` says, and a default may be given or not.

    Args:
        results: result.json of each run, with its ``variant``, which is changed in place.
    """
    shortest: dict[tuple[str, ...], str] = {}
    keys = []
    for r in results:
        said = json.dumps(flat(r.get("configuration") or {}), sort_keys=True)
        keys.append((r["task"], r["model"], r["method"], said))
        here = shortest.get(keys[-1], r["variant"])
        shortest[keys[-1]] = min(here, r["variant"], key=lambda words: (len(words), words))
    for r, key in zip(results, keys, strict=True):
        if r.get("configuration"):
            r["variant"] = shortest[key]


def told_apart(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The results, each with a ``variant`` that no other configuration of its method shares.

    Runs that were started from Python, or from other folders, may have the same words (or none) and
    other options: they are no seeds of one another. What differs is added to their variant.

    Args:
        results: result.json of each run, with its ``variant`` if it has one.
    """
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    given = [{"variant": "", **r} for r in results]
    for r in given:
        groups.setdefault((r["task"], r["model"], r["method"], r["variant"]), []).append(r)
    for members in groups.values():
        options = [flat(r.get("configuration") or {}) for r in members]
        # an option that a run of an older version does not have tells nothing apart
        known = [k for k in options[0] if all(k in own for own in options)]
        differing = [k for k in known if len({own[k] for own in options}) > 1]
        for r, own in zip(members, options, strict=True):
            words = [f"{key}={json.loads(own[key])}" for key in differing]
            r["variant"] = " ".join(filter(None, [r["variant"], *words]))
    return given


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
