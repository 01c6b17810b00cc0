"""Write suspects.csv: a line for each training example, the most suspect first."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bilevel.checkpoint.disk import check_writable
from bilevel.errors import UserError
from experiments.answers import CHOICES, CLASSES, LABELS, SPANS, TEXT, Answers
from experiments.cli.writing import write_atomically
from experiments.suspecting.scores import MEANINGS
from experiments.tasks.examples import Origin
from experiments.tasks.task import TaskData

if TYPE_CHECKING:
    from experiments.suspecting.find import Found

__all__ = ["FILE", "PREDICTED", "answer", "refuse_others", "shown", "write"]

FILE = "suspects.csv"
NAMES = ("rank", "score", "file", "unit", "row", "given", "proposed")
LONGEST = 10_000  # characters of a header that is looked at
TRUE = "true"  # where any is known
EXACT = 15  # digits that people write at most
PREDICTED = 6  # digits of a number that a model has said
SURE = "sure"  # of classes and tags


def answer(task: TaskData, example: Any) -> Any:
    """What an example's label is, in the form of its truth: a class, a number, tags or texts."""
    kind = task.answers.kind
    if kind == TEXT:
        return example.target
    if kind == SPANS:
        return tuple(one.text for one in example.answers)
    said = example._asdict()
    return next(said[name] for name in ("label", "tags", "labels") if name in said)


def shown(answers: Answers, value: Any, digits: int | None = None) -> str:
    """An answer as a cell, in the user's own words: several labels or answers as JSON.

    Args:
        answers: of the task.
        value: the answer; None for none.
        digits: of a number; None for those that it was written with.
    """
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
    if not isinstance(value, float):
        return str(value)
    return _written(value) if digits is None else f"{value:.{digits}g}"


def _written(value: float) -> str:
    """The shortest number that reads back as the value; of float32's 3.799999952316284, 3.8."""
    with np.errstate(over="ignore"):
        single = np.float32(value)
    texts = [repr(float(value)), *([str(single)] if float(single) == value else [])]
    long = len(texts[0].strip("-").replace(".", "").lstrip("0")) > EXACT
    return (texts[-1] if long else texts[0]).removesuffix(".0")


def refuse_others(out: Path) -> None:
    """Look into the folder that the table is to be written into.

    Args:
        out: need not be there. A table that was written before is replaced.

    Raises:
        UserError: it is a file, or its table has other columns, as one that somebody worked on;
            or it cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"out={out} is a file, and a folder is needed")
    check_writable(out, "out")
    path = out / FILE
    if not path.exists():
        return
    elsewhere = "it would be overwritten: move it away, or give another folder by out=DIR"
    if not path.is_file():
        raise UserError(f"{path} is no file; {elsewhere}")
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        names = tuple(next(csv.reader([file.readline(LONGEST)]), []))
    rest = [name for name in names[len(NAMES) :] if name not in (TRUE, SURE, *MEANINGS)]
    if names[: len(NAMES)] != NAMES or rest:
        raise UserError(
            f"{path} has other columns than this program writes, as a table that somebody has "
            f"worked on; {elsewhere}"
        )


def write(task: TaskData, found: Found, by: str, path: Path) -> None:
    """Write the table.

    Columns: rank and score (those that the file is sorted by), file, unit and row of the example in
    the user's data, given, proposed and (where any is known) true label, how sure the likeliest
    label is (of classes and tags), and every score.

    Args:
        task: its training examples were scored.
        found: the scores.
        by: the column that ranks.
        path: of the file.
    """
    columns, ranks = found.scores.columns, found.scores.ranks(by)
    origins: Sequence[Origin] = task.origins()
    known = any(origin.truth is not None for origin in origins)
    names = [*NAMES, *([TRUE] * known), *([SURE] * (found.sure is not None))]
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow([*names, *columns])
    for i in ranks.argsort(kind="stable").tolist():
        origin = origins[i]
        proposed = shown(task.answers, found.proposed[i], PREDICTED)
        labels = [answer(task, task.train[i]), *([origin.truth] * known)]
        given, *truth = (shown(task.answers, value) for value in labels)
        lines.writerow(
            [
                *(ranks[i], f"{columns[by][i]:.6g}", origin.file, origin.unit, origin.number),
                *(given, proposed, *truth),
                *([] if found.sure is None else [f"{found.sure[i]:.6g}"]),
                *(f"{column[i]:.6g}" for column in columns.values()),
            ]
        )
    write_atomically(path, text.getvalue())
