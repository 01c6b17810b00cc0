"""Put what a comparison found into the rows of wide tables, for a spreadsheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.comparing.comparison import LOSS, Comparison, Method

__all__ = ["of_methods", "of_runs"]


def of_methods(
    rows: Sequence[Mapping[str, Any]], comparisons: Sequence[Comparison]
) -> list[dict[str, Any]]:
    """A row a method: what is given of it, with its interval and its difference to the baseline.

    Args:
        rows: with ``method``, ``variant``, ``task`` and ``model``.
        comparisons: of the same runs.
    """
    found = {
        (c.task, c.model, m.method, m.variant): _of_method(c, m)
        for c in comparisons
        for m in c.methods
    }
    keys = [(row["task"], row["model"], row["method"], row["variant"]) for row in rows]
    return [{**row, **found[key]} for row, key in zip(rows, keys, strict=True)]


def of_runs(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """A row a run: its score with its interval over test examples alone."""
    return [
        {
            **{"method": m.method, "variant": m.variant, "task": c.task, "model": c.model},
            **{"seed": run.seed, "metric": c.metric, "score": run.score},
            **{"low": run.low, "high": run.high, "folder": run.folder or ""},
        }
        for c in comparisons
        for m in c.methods
        for run in m.runs
    ]


def _of_method(c: Comparison, m: Method) -> dict[str, Any]:
    row: dict[str, Any] = {
        **{"metric": c.metric, "score": m.score, "score_low": m.low, "score_high": m.high},
        **{"validation": m.validation_shown, "validation_of": c.chosen_by},
        **{"best_by_validation": m.best, "on_front": m.on_front, "compared_with": c.baseline or ""},
    }
    for family in c.families:
        start = "loss_difference" if family.measure == LOSS else "difference"
        for d in family.differences:
            if d.name == m.name:
                row |= {start: d.mean, f"{start}_low": d.low, f"{start}_high": d.high}
                row |= {f"{start}_seeds": len(d.seeds), f"{start}_p": d.p}
                row |= {f"{start}_p_holm": d.p_holm, f"{start}_shown": d.shown}
    return row
