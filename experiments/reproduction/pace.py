"""Say how long the missing runs will take, at the rate of those that are finished."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from experiments.reproduction.cells import Cell

__all__ = ["EXAMPLES", "duration", "forecast", "steps_of"]

# Training examples, for tasks of which no run is finished yet (roughly, as the papers count them).
EXAMPLES = {
    **{"cola": 8551, "sst2": 67349, "mrpc": 3668, "stsb": 5749, "rte": 2490},
    **{"qqp": 363846, "mnli": 392702, "qnli": 104743},
    **{"e2e": 42061, "webnlg": 18102, "dart": 62659, "xsum": 204045},
}
# conf/config.yaml's.
EPOCHS, BATCH = 5.0, 16.0


def forecast(missing: Sequence[Cell], finished: Sequence[tuple[Cell, dict[str, Any]]]) -> str:
    """A few words on the time that the missing runs need.

    The rate is seconds per step, of finished runs with the same model and method. Steps are those
    of one pass through ``train.epochs``: what a method does besides (a search, evaluations) is in
    its rate.
    """
    if not missing:
        return "nothing left to do"
    rates: dict[tuple[str, str], list[float]] = {}
    sizes: dict[str, int] = {}
    for cell, values in finished:
        data = values["data"]
        sizes[cell.task] = data["train"] + (data.get("validation") or 0)
        steps = steps_of(cell, sizes[cell.task])
        rates.setdefault(_kind(cell), []).append(sum(values["seconds"].values()) / steps)
    total, unknown = 0.0, 0
    for cell in missing:
        examples, rate = sizes.get(cell.task, EXAMPLES.get(cell.task)), rates.get(_kind(cell))
        if rate is None or (examples is None and "train.max_steps" not in cell.settings):
            unknown += 1
        else:
            total += sum(rate) / len(rate) * steps_of(cell, examples)
    if unknown == len(missing):
        return "time unknown until the first run of each method and model is done"
    if unknown:
        return f"about {duration(total)} for {len(missing) - unknown} of them, unknown for the rest"
    return f"about {duration(total)}"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    for unit, size in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def _kind(cell: Cell) -> tuple[str, str]:
    return cell.settings["model"], cell.settings["method"]


def steps_of(cell: Cell, examples: int | None) -> float:
    """Steps of one pass through ``train.epochs`` of so many examples."""
    given = cell.settings
    limit = float(given.get("train.max_steps", "inf").replace("null", "inf"))
    if examples is None:
        return limit
    most = given.get("task.max_train", "null")
    count = examples if most == "null" else min(examples, int(most))
    batch = float(given.get("train.batch_size", BATCH))
    batch *= float(given.get("train.gradient_accumulation", 1))
    epochs = float(given.get("train.epochs", EPOCHS))
    return max(1.0, min(limit, math.ceil(epochs * count / batch)))
