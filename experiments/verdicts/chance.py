r"""Hold predictions against a guess without looking, and against another model's, with their noise.

Of the n examples of a test with losses or right answers a_i and b_i by two models, d_i = a_i - b_i,

    difference  D = sum d_i / N,    standard error under no difference  e = sqrt(sum d_i^2) / N,

N counts answers: examples, or of tags words, of which a sentence is one d_i. D / e is McNemar's
statistic of right answers (1947) without a correction. Whether answers go with the right ones at
all, of any kind of answer p and y and beyond what any constant or random answer does,

    a_i = (p_i - mean p) . (y_i - mean y),    z = sum a_i / sqrt(sum (a_i - mean a)^2),

with classes as unit vectors; of tags a_i is the sum over a sentence's words, and of answers in a
text it is their F1 with the right ones less that of other questions' answers with them. |z| below 2
is noise.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.answers import CHOICES, CLASSES, LABELS, NUMBER, SPANS, TAGS
from experiments.metrics import constant, spans
from experiments.results.predictions_file import LEAST

__all__ = ["Compared", "association", "between", "larger_class", "losses"]

Record = Mapping[str, Any]
SHIFTS = 8


class Compared(NamedTuple):
    """Two models, or a model and a guess, on the same answers.

    Attributes:
        score: share of right answers of the first; of numbers its mean squared error.
        other: of the second.
        error: standard error of their difference, under none.
    """

    score: float
    other: float
    error: float

    @property
    def difference(self) -> float:
        """The first less the second."""
        return self.score - self.other

    @property
    def z(self) -> float:
        """The difference in standard errors; 0 where nothing differs."""
        return self.difference / self.error if self.error else 0.0


def between(kind: str, first: Sequence[Record], second: Sequence[Record]) -> Compared:
    """Two models' predictions of the same examples.

    Args:
        kind: of the answers, not text.
        first, second: lines of predictions.jsonl, in the same order.
    """
    a, counts = _each(kind, first)
    b, _ = _each(kind, second)
    return _compared(a, b, counts)


def larger_class(kind: str, records: Sequence[Record]) -> tuple[str, Compared]:
    """The answer that is most often right, and the model against always giving it.

    It is the most frequent one of the test itself, so that a model which only knows the training
    data's has it the harder. Of numbers it is their mean.

    Args:
        kind: classes, tags or number.
        records: lines of predictions.jsonl, at least one.
    """
    a, counts = _each(kind, records)
    if kind == NUMBER:
        labels = np.array([record["label"] for record in records], float)
        return f"{labels.mean():.4g}", _compared(a, constant.of_numbers(labels), counts)
    right = _right_tags(records) if kind == TAGS else [[record["label"]] for record in records]
    answer = Counter(label for row in right for label in row).most_common(1)[0][0]
    b = np.array([sum(label == answer for label in row) for row in right], float)
    return str(answer), _compared(a, b, counts)


def association(kind: str, records: Sequence[Record]) -> float:
    """z of the answers going with the right ones; 0 where either are all the same, and infinite
    where each example says as much as every other.

    Args:
        kind: of the answers, not text.
        records: lines of predictions.jsonl.
    """
    if _constant(kind, records):  # exactly, where rounding would leave a little
        return 0.0
    products = _products(kind, records)
    spread = math.sqrt(float(((products - products.mean()) ** 2).sum())) if len(products) else 0.0
    total = float(products.sum())
    if spread <= 1e-9 * abs(total):  # all alike, as where every answer is right
        return math.copysign(math.inf, total) if total else 0.0
    return total / spread


def _constant(kind: str, records: Sequence[Record]) -> bool:
    """Whether the answers, or the right ones, are all the same."""
    said: list[Any] = [record["prediction"] for record in records]
    if kind == SPANS:
        return len(set(said)) < 2
    right: list[Any] = [record["tags" if kind == TAGS else "label"] for record in records]
    if kind == TAGS:
        said, right = ([tag for row in rows for tag in row] for rows in (said, right))
    elif kind == LABELS:
        said, right = ([tuple(sorted(row)) for row in rows] for rows in (said, right))
    return len(set(said)) < 2 or len(set(right)) < 2


def losses(
    kind: str, records: Sequence[Record], names: Sequence[str] | None = None
) -> Compared | None:
    """The mean loss, against that of always giving the classes' shares or the mean of the numbers.

    Args:
        kind: of the answers.
        records: lines of predictions.jsonl.
        names: of the classes, in the order of their probabilities.

    Returns:
        Cross-entropies of classes, squared errors of numbers, and the standard error of the mean of
        their differences; None of other kinds.
    """
    if kind == NUMBER:
        labels = np.array([record["label"] for record in records], float)
        a, b = _each(kind, records)[0], constant.of_numbers(labels)
    elif kind in (CLASSES, CHOICES) and names is not None:
        places = {name: i for i, name in enumerate(names)}
        right = [places[record["label"]] for record in records]
        said = [r["probabilities"][place] for r, place in zip(records, right, strict=True)]
        a, b = -np.log(np.maximum(said, LEAST)), constant.of_classes(np.array(right))
    else:
        return None
    spread = float((a - b).std(ddof=1)) if len(a) > 1 else 0.0
    return Compared(float(a.mean()), float(b.mean()), spread / math.sqrt(len(a)))


def _compared(a: np.ndarray, b: np.ndarray, counts: np.ndarray) -> Compared:
    total = float(counts.sum())
    error = math.sqrt(float(((a - b) ** 2).sum())) / total
    return Compared(float(a.sum()) / total, float(b.sum()) / total, error)


def _each(kind: str, records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
    """Right answers (of numbers squared errors) of each example, and how many answers it has."""
    if kind == NUMBER:
        pairs = np.array([(r["prediction"], r["label"]) for r in records], float).reshape(-1, 2)
        return (pairs[:, 0] - pairs[:, 1]) ** 2, np.ones(len(pairs))
    if kind == TAGS:
        tags = _right_tags(records)
        found = [
            sum(a == b for a, b in zip(r["prediction"], right, strict=True))
            for r, right in zip(records, tags, strict=True)
        ]
        return np.array(found, float), np.array([len(right) for right in tags], float)
    if kind == LABELS:  # all of them right
        found = [sorted(record["prediction"]) == sorted(record["label"]) for record in records]
    else:
        found = [record["prediction"] == record["label"] for record in records]
    return np.array(found, float), np.ones(len(found))


def _right_tags(records: Sequence[Record]) -> list[Sequence[str]]:
    return [record["tags"] for record in records]


def _products(kind: str, records: Sequence[Record]) -> np.ndarray:
    """(p_i - mean p) . (y_i - mean y) of each example."""
    if kind == NUMBER:
        pairs = np.array([(r["prediction"], r["label"]) for r in records], float).reshape(-1, 2)
        centred = pairs - pairs.mean(axis=0)
        return centred[:, 0] * centred[:, 1]
    if kind == SPANS:
        return _of_spans(records)
    if kind == LABELS:
        names = sorted({name for r in records for name in (*r["label"], *r["prediction"])})
        said, right = (
            np.array([[name in r[key] for name in names] for r in records], float)
            for key in ("prediction", "label")
        )
        return ((said - said.mean(axis=0)) * (right - right.mean(axis=0))).sum(axis=1)
    if kind == TAGS:
        pairs_of = [list(zip(r["prediction"], r["tags"], strict=True)) for r in records]
    else:
        pairs_of = [[(r["prediction"], r["label"])] for r in records]
    total = sum(len(pairs) for pairs in pairs_of)
    said_shares = Counter(said for pairs in pairs_of for said, _ in pairs)
    right_shares = Counter(right for pairs in pairs_of for _, right in pairs)
    both = sum(said_shares[name] * right_shares[name] for name in said_shares) / total**2
    return np.array(
        [
            sum(
                (said == right) - right_shares[said] / total - said_shares[right] / total + both
                for said, right in pairs
            )
            for pairs in pairs_of
        ]
    )


def _of_spans(records: Sequence[Record]) -> np.ndarray:
    """F1 of each answer, less the mean F1 that answers to other questions have with the right one.

    Other questions are `SHIFTS` of them, spread over the test: neighbours are on one text.
    """
    count = len(records)
    steps = sorted({count * k // (SHIFTS + 1) for k in range(1, SHIFTS + 1)} - {0})
    found = []
    for i, record in enumerate(records):
        own = spans.f1(record["prediction"], record["answers"])
        others = [
            spans.f1(records[(i + step) % count]["prediction"], record["answers"]) for step in steps
        ]
        found.append(own - sum(others) / max(1, len(others)))
    return np.array(found)
