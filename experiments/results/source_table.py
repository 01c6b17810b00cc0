"""Say what each source of the training data was worth: its weight, an interval and a verdict.

A source's weight p_s = softmax(theta)_s is read about a hundred times while it is learned. What it
came to is the mean of the last quarter of these records, its interval holds 95 % of them:

| verdict | |
|---|---|
| helps | the interval is above 1/S, an equal part |
| harms | the interval is below 1/(2 S), half of one |
| neutral | else |

Weights sum to 1, so a verdict compares a source with the others: one that "harms" serves D_val less
than they do. What the model loses without a source is asked by training without it
(``task.drop_sources``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.cli.writing import write_atomically
from problems.common.records import SOURCE_WEIGHT

__all__ = ["FILE", "ends", "lines", "of_records", "short", "weights_over_steps", "write"]

FILE = "source_weights.json"
FEWEST = 5  # records that an interval can be told of
SHOWN = 20  # sources in a terminal and by name in a picture: half the heaviest, half the lightest
LETTERS = 40  # of a name there


def weights_over_steps(
    records: Sequence[Mapping[str, Any]],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Steps (t,), and each source's weight at them, (t,); no sources where none are recorded."""
    found = [r for r in records if any(key.startswith(SOURCE_WEIGHT) for key in r)]
    names = [key for key in (found[0] if found else ()) if key.startswith(SOURCE_WEIGHT)]
    return np.array([r["step"] for r in found]), {
        name.removeprefix(SOURCE_WEIGHT): np.array([r.get(name) for r in found], dtype=float)
        for name in names
    }


def of_records(
    records: Sequence[Mapping[str, Any]], sizes: Mapping[str, int]
) -> dict[str, Any] | None:
    """The table; None where no weights of sources were recorded.

    Args:
        records: lines of metrics.jsonl.
        sizes: source -> its training examples.

    Returns:
        ``weights`` (source -> weight, summing to 1: what ``task.source_weights`` reads), ``even``
        (1/S), ``records`` (how many the table is of), and ``sources``, a row for each: ``source``,
        ``examples``, ``weight``, ``low``, ``high``, ``share`` (n w / sum n w, what it has of the
        loss) and ``verdict``, null of fewer than 5 records.
    """
    steps, weights = weights_over_steps(records)
    if not weights:
        return None
    last = max(1, round(len(steps) / 4))
    even = 1 / len(weights)
    rows: list[dict[str, Any]] = []
    for source, values in weights.items():
        low, high = np.quantile(values[-last:], [0.025, 0.975])
        verdict = "helps" if low > even else "harms" if high < even / 2 else "neutral"
        rows.append(
            {
                "source": source,
                "examples": sizes.get(source, 0),
                "weight": float(values[-last:].mean()),
                "low": float(low),
                "high": float(high),
                "verdict": verdict if last >= FEWEST else None,
            }
        )
    total = sum(row["examples"] * row["weight"] for row in rows)
    for row in rows:
        row["share"] = row["examples"] * row["weight"] / total if total else 0.0
    return {
        "weights": {row["source"]: row["weight"] for row in rows},
        "even": even,
        "records": last,
        "sources": rows,
    }


def ends(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Of names by weight, those to be shown: all as the first part, or the ends of a long list."""
    if len(names) <= SHOWN:
        return list(names), []
    return list(names[: SHOWN // 2]), list(names[-SHOWN // 2 :])


def short(name: str) -> str:
    """A source's name on one line, and no wider than a table stands."""
    line = " ".join(name.split())
    return line if len(line) <= LETTERS else f"{line[: LETTERS - 3]}..."


def lines(table: Mapping[str, Any]) -> list[str]:
    """The table in lines, the largest weight first; of many sources both ends of it."""
    rows = {row["source"]: row for row in sorted(table["sources"], key=lambda row: -row["weight"])}
    first, last = ends(list(rows))
    width = max(len(short(name)) for name in (*first, *last))

    def said(name: str) -> str:
        row = rows[name]
        return (
            f"{short(name):{width}}  weight {row['weight']:.3f} ({row['low']:.3f} to "
            f"{row['high']:.3f})  {row['verdict'] or 'not known: too few records'}"
        )

    between = len(rows) - len(first) - len(last)
    more = [f"({between} more between them: {FILE})"] if between else []
    return [*map(said, first), *more, *map(said, last)]


def write(title: str, table: Mapping[str, Any], folder: Path) -> None:
    """Write source_weights.json into a run's folder."""
    write_atomically(folder / FILE, json.dumps({"title": title, **table}, indent=2) + "\n")
