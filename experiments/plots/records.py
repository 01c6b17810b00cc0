"""Read what several figures need out of the lines of metrics.jsonl and of result.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = [
    "Record",
    "final_values",
    "is_softmax",
    "kept_record",
    "kept_step",
    "last_stage",
    "lower_steps_each",
    "method_name",
    "run_name",
    "setting_name",
    "values_over_steps",
    "watched",
]

Record = dict[str, Any]
NAMED = 3  # methods in a title; more are counted


def last_stage(records: Sequence[Record], kind: str) -> list[Record]:
    """The lines of one kind of the last stage that has any, in order."""
    found = [record for record in records if record["kind"] == kind]
    return [record for record in found if record["stage"] == found[-1]["stage"]]


def values_over_steps(records: Sequence[Record]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Steps (t,) and each module's gate or singular values (t, k) of the last stage with any.

    No modules without such lines. What was not finite is NaN.
    """
    found = last_stage(records, "gates")
    steps = np.array([record["step"] for record in found])
    names = list(found[0]["gates"]) if found else []
    return steps, {n: np.array([r["gates"][n] for r in found], dtype=float) for n in names}


def final_values(records: Sequence[Record]) -> dict[str, np.ndarray]:
    """The values (k,) that each module ended with: those of the weights that were kept."""
    last = kept_record(records)
    return {name: values[last] for name, values in values_over_steps(records)[1].items()}


def kept_record(records: Sequence[Record]) -> int:
    """Of the lines of values, the one of the weights that their stage ended with; -1 for the last.

    Where the best weights are kept that is the last line up to their step.
    """
    found = last_stage(records, "gates")
    kept = kept_step(records, found[-1]["stage"]) if found else None
    if kept is None:
        return -1
    return max(0, sum(record["step"] <= kept for record in found) - 1)


def kept_step(records: Sequence[Record], stage: str) -> int | None:
    """The step whose weights a stage ended with; None for the last one."""
    found = [r["step"] for r in records if (r["kind"], r["stage"]) == ("kept", stage)]
    return found[-1] if found else None


def is_softmax(values: dict[str, np.ndarray]) -> bool:
    """Whether each module's k values, (..., k), sum to 1 and are positive, as written."""
    # Six decimals are written: the sum of k roundings.
    return all(
        v.shape[-1] > 1 and bool(np.all(v >= 0)) and bool(np.all(np.abs(v.sum(-1) - 1) < 1e-4))
        for v in values.values()
    )


def watched(
    records: Sequence[Record], name: str
) -> tuple[np.ndarray, np.ndarray, list[tuple[str, int]]]:
    """A watched number over the steps of all stages that have it, one after the other.

    Returns:
        Steps (t,), values (t,) with NaN for null, and each stage with the step it begins at.
    """
    found = [r for r in records if r["kind"] == "watch" and name in r]
    steps: list[int] = []
    values: list[float] = []
    starts: list[tuple[str, int]] = []
    for stage in dict.fromkeys(r["stage"] for r in found):
        begin = steps[-1] if steps else 0
        starts.append((stage, begin))
        for record in (r for r in found if r["stage"] == stage):
            steps.append(begin + record["step"])
            values.append(np.nan if record[name] is None else record[name])
    return np.array(steps), np.array(values, dtype=float), starts


def lower_steps_each(records: Sequence[Record], stage: str, result: dict[str, Any]) -> int:
    """Lower-level optimiser steps in a global step of a stage: T1 with two levels, else 1."""
    engine = result["engine"]
    if engine["T1"] is None:
        return 1
    if len(engine["steps"]) == 1:
        return engine["T1"]
    two_levels = any(
        key.endswith("_loss") and key != "lower_loss"
        for record in records
        if record["stage"] == stage and record["kind"] == "train"
        for key in record
    )
    return engine["T1"] if two_levels else 1


def method_name(result: dict[str, Any]) -> str:
    """The method with what its run was given besides, as the report tells runs apart."""
    return f"{result['method']} {result.get('variant', '')}".strip()


def run_name(result: dict[str, Any]) -> str:
    """What a run is called in the title of each of its figures."""
    return f"{result['method']} on {result['task']}, {result['model']}, seed {result['seed']}"


def setting_name(results: Sequence[dict[str, Any]]) -> str:
    """What several runs are of, in the title of their figures: methods, tasks, models, seeds."""
    methods = sorted({r["method"] for r in results})
    who = ", ".join(methods) if len(methods) <= NAMED else f"{len(methods)} methods"
    settings = dict.fromkeys(f"{r['task']}, {r['model']}" for r in results)
    seeds = sorted({r["seed"] for r in results})
    together = len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1))
    said = f"{seeds[0]} to {seeds[-1]}" if together else ", ".join(map(str, seeds))
    return f"{who} on {'; '.join(settings)}, seed{'s' * (len(seeds) > 1)} {said}"
