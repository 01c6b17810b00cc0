"""Tell runs apart that differ in more than their seed, whatever their command lines say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.comparing.data_sets import other_training
from experiments.comparing.options import START, flat

__all__ = ["name_alike", "one_a_seed", "told_apart"]


def name_alike(results: Sequence[dict[str, Any]]) -> None:
    """Give runs of one configuration one ``variant``, whatever words they were started with.

    ``train.lr=1e-3`` says what ``train.lr=0.001`` says, and a default may be given or not.

    Args:
        results: result.json of each run, with its ``variant``, which is changed in place.
    """
    shortest: dict[tuple[str, ...], str] = {}
    keys = []
    for r in results:
        said = json.dumps(_options(r), sort_keys=True)
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
        options = [_options(r) for r in members]
        if len({(r["seed"], _start(r)) for r in members}) > len({r["seed"] for r in members}):
            # one seed began from several runs: these are no seeds' own
            options = [{**own, START: _start(r)} for r, own in zip(members, options, strict=True)]
        # an option that a run of an older version does not have tells nothing apart
        known = [k for k in options[0] if all(k in own for own in options)]
        differing = [k for k in known if len({own[k] for own in options}) > 1]
        data = other_training(members)
        for r, own, trained in zip(members, options, data, strict=True):
            words = [*(f"{key}={json.loads(own[key])}" for key in differing), trained]
            r["variant"] = " ".join(filter(None, [r["variant"], *words]))
    return given


def one_a_seed(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that a comparison counts: of several runs of one method and seed the first.

    Args:
        results: result.json of each run, of :func:`told_apart`.
    """
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for r in results:
        key = (r["task"], r["model"], r["method"], r.get("variant", ""), r["seed"])
        found.setdefault(key, r)
    return list(found.values())


def _options(r: Mapping[str, Any]) -> dict[str, str]:
    """A run's options, and of what kind the run was that it began with, if any."""
    options = flat(r.get("configuration") or {})
    start = r.get("warm_start")
    if options and start:
        options[START] = json.dumps(", ".join(str(start.get(k)) for k in ("method", "task")))
    elif options:
        options[START] = json.dumps(None)
    return options


def _start(r: Mapping[str, Any]) -> str:
    """The folder of the run that a run began with, as JSON."""
    model = (r.get("configuration") or {}).get("model")
    return json.dumps(model.get("warm_start") if isinstance(model, Mapping) else None)
