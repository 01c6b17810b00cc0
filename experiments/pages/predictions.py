"""Say what a page shows of a run's predictions: what is confused, and what is most wrong."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bilevel.errors import UserError
from experiments.answers import CHOICES, CLASSES, LABELS, NUMBER, SPANS, TAGS, TEXT
from experiments.metrics import spans
from experiments.results import predictions_file, wrongest

__all__ = ["Predictions", "Share", "read"]

SHOWN = 20  # of the wrongest predictions
SAMPLES = 12  # of written texts
WIDEST = 12  # classes in a matrix; of more the pairs that are confused most often are listed
PAIRS = 20

Row = dict[str, Any]


@dataclass(frozen=True)
class Share:
    """A class, a label or a type of entity: how many there are, and how well they are found."""

    name: str
    support: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class Predictions:
    """What is shown of the predictions of a run.

    Attributes:
        kind: what the model puts out.
        count: examples.
        wrong: those that are not right; None where that is no yes or no.
        shares: a row a class, a label or a type of entity.
        names: of up to 12 classes, in the order of the rows and columns of the next.
        confusion: how often the right class of a row was taken for the class of a column.
        pairs: (right, said, how often) of more classes than that, the most frequent first.
        worst: the lines that are most wrong, the worst first, with ``texts`` where they are known.
        samples: of written texts, from all over the test.
        numbers: right and predicted numbers (n, 2) of a regression.
    """

    kind: str
    count: int
    wrong: int | None = None
    shares: Sequence[Share] = ()
    names: Sequence[str] = ()
    confusion: Sequence[Sequence[int]] = ()
    pairs: Sequence[tuple[str, str, int]] = ()
    worst: Sequence[Row] = ()
    samples: Sequence[Row] = ()
    numbers: np.ndarray | None = None


def read(folder: Path, result: Mapping[str, Any]) -> Predictions | None:
    """Read what a run says of its test examples.

    Args:
        folder: of the run.
        result: its result.json.

    Returns:
        None without such a file, or where what the model puts out has no form known here.

    Raises:
        UserError: a file is damaged.
    """
    path, kind, names = folder / predictions_file.FILE, result.get("kind"), result.get("labels")
    if not path.is_file() or kind not in predictions_file.KINDS:
        return None
    rows = list(predictions_file.lines(path, result))
    if kind == TEXT:
        places = sorted({i * len(rows) // SAMPLES for i in range(SAMPLES)}) if rows else []
        return Predictions(kind, len(rows), samples=[rows[i] for i in places])
    worst = wrongest.largest(_with_texts(folder, rows, result), kind, names, SHOWN)
    if kind == NUMBER:
        pairs = np.array([(row["label"], row["prediction"]) for row in rows], dtype=float)
        return Predictions(kind, len(rows), worst=worst, numbers=pairs)
    if kind == SPANS:
        missed = sum(not spans.exact_match(row["prediction"], row["answers"]) for row in rows)
        return Predictions(kind, len(rows), missed, worst=worst)
    right = "tags" if kind == TAGS else "label"
    wrong = sum(row["prediction"] != row[right] for row in rows)
    if kind == TAGS:
        shares = _entities(result.get("entities"))
        return Predictions(kind, len(rows), wrong, shares, worst=worst)
    shares = _shares(rows, names or [], kind)
    if kind == LABELS:
        return Predictions(kind, len(rows), wrong, shares, worst=worst)
    counts = Counter((row["label"], row["prediction"]) for row in rows)
    if len(names or ()) <= WIDEST:
        table = [[counts[right, said] for said in names or ()] for right in names or ()]
        return Predictions(kind, len(rows), wrong, shares, names or (), table, worst=worst)
    often = [(*pair, n) for pair, n in counts.most_common() if pair[0] != pair[1]][:PAIRS]
    return Predictions(kind, len(rows), wrong, shares, pairs=often, worst=worst)


def _with_texts(folder: Path, rows: list[Row], result: Mapping[str, Any]) -> list[Row]:
    """The rows, and the texts of those that wrongest.jsonl has.

    Raises:
        UserError: that file is damaged.
    """
    path = folder / wrongest.FILE
    if not path.is_file() or result["kind"] not in wrongest.WITHOUT_TEXT:
        return rows
    kept = {
        (r["test"], r["index"]): r.get("texts", []) for r in predictions_file.lines(path, result)
    }
    return [{**row, "texts": kept.get((row["test"], row["index"]), [])} for row in rows]


def _entities(entities: Any) -> list[Share]:
    try:
        return [
            Share(name, int(of["support"]), of["precision"], of["recall"], of["f1"])
            for name, of in (entities or {}).items()
        ]
    except KeyError as error:
        raise UserError(f"result.json is damaged: its 'entities' have no {error}") from error


def _shares(rows: Sequence[Row], names: Sequence[str], kind: str) -> list[Share]:
    """Precision, recall and F1 of each class or label."""
    from sklearn.metrics import precision_recall_fscore_support

    right: Any
    said: Any
    order: Any
    if kind in (CLASSES, CHOICES):
        right, said = [row["label"] for row in rows], [row["prediction"] for row in rows]
        order = list(names)
    else:
        right, said = (
            [[n in r[key] for n in names] for r in rows] for key in ("label", "prediction")
        )
        right, said, order = np.array(right, int), np.array(said, int), range(len(names))
    found = precision_recall_fscore_support(right, said, labels=order, zero_division=math.nan)
    table = np.array(found, dtype=float)
    return [
        Share(name, int(support), *(None if math.isnan(x) else float(x) for x in scores))
        for name, (*scores, support) in zip(names, table.T.tolist(), strict=True)
    ]
