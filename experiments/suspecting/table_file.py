"""Write suspects.csv: a line for each training example, the most suspect first."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.answers import CHOICES, CLASSES, LABELS, SPANS, TEXT, Answers
from experiments.cli.writing import write_atomically
from experiments.suspecting.find import Found
from experiments.tasks.examples import Origin
from experiments.tasks.task import TaskData

__all__ = ["FILE", "answer", "shown", "write"]

FILE = "suspects.csv"


def answer(task: TaskData, example: Any) -> Any:
    """What an example's label is, in the form of its truth: a class, a number, tags or texts."""
    kind = task.answers.kind
    if kind == TEXT:
        return example.target
    if kind == SPANS:
        return tuple(one.text for one in example.answers)
    said = example._asdict()
    return next(said[name] for name in ("label", "tags", "labels") if name in said)


def shown(answers: Answers, value: Any) -> str:
    """An answer as a cell, in the user's own words: several labels or answers as JSON."""
    if value is None:
        return ""
    if answers.kind in (CLASSES, CHOICES) and answers.names is not None:
        return answers.names[int(value)]
    if answers.kind == LABELS and answers.names is not None:
        value = [answers.names[number] for number in value]
    elif answers.kind == SPANS and len(value) == 1:
        return str(value[0])
    if answers.kind in (LABELS, SPANS):  # which may have spaces, unlike tags
        return json.dumps(list(value), ensure_ascii=False)
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def write(task: TaskData, found: Found, by: str, path: Path) -> None:
    """Write the table.

    Columns: rank and score (those that the file is sorted by), file, unit and row of the example in
    the user's data, given, proposed and (where any is known) true label, and every score.

    Args:
        task: its training examples were scored.
        found: the scores.
        by: the column that ranks.
        path: of the file.
    """
    columns, ranks = found.scores.columns, found.scores.ranks(by)
    origins: Sequence[Origin] = task.origins()
    known = any(origin.truth is not None for origin in origins)
    names = ["rank", "score", "file", "unit", "row", "given", "proposed", *(["true"] * known)]
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow([*names, *columns])
    for i in ranks.argsort(kind="stable").tolist():
        origin = origins[i]
        labels = [answer(task, task.train[i]), found.proposed[i], *([origin.truth] * known)]
        lines.writerow(
            [
                *(ranks[i], f"{columns[by][i]:.6g}", origin.file, origin.unit, origin.number),
                *(shown(task.answers, value) for value in labels),
                *(f"{column[i]:.6g}" for column in columns.values()),
            ]
        )
    write_atomically(path, text.getvalue())
