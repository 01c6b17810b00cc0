"""Compute scores on test examples that are drawn again, thousands of draws at once.

A draw is how often each example is in it, so that most scores of all draws are one matrix product:
an F1, a correlation or a BLEU is a function of sums over the examples. A test holds each of them
against the library that computes the score itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = [
    "DRAWS",
    "Resampled",
    "accuracy",
    "binary_f1",
    "draws_of",
    "interval",
    "label_sets",
    "macro_f1",
    "matthews",
    "mean",
    "of_tags",
    "pearson",
    "ratio",
    "spearman",
]

DRAWS = 1000
SEED = 0  # so that a report says the same twice
CELLS = 4_000_000  # of a table of counts held at once

Score = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Resampled:
    """A score of N examples that can be computed on draws of them.

    Attributes:
        score: from counts, (B, N) of how often each example is in each of B draws, to (B,) scores;
            nan where a draw has none.
        size: N.
        each: (N,) values of which the score is the mean; None where it is no mean.
        share: whether each value is 0 or 1.
    """

    score: Score
    size: int
    each: np.ndarray | None = None
    share: bool = False

    @property
    def value(self) -> float:
        """On the examples as they are."""
        return float(self.score(np.ones((1, self.size)))[0])


def draws_of(scores: Sequence[Resampled], draws: int = DRAWS) -> np.ndarray:
    """Scores on the same draws of N examples with replacement, (B, number of scores).

    Args:
        scores: all of the same N examples.
        draws: B.
    """
    size = scores[0].size
    rng = np.random.default_rng(SEED)
    parts, left = [], draws
    while left:
        rows = min(left, max(1, CELLS // size))
        drawn = rng.integers(0, size, (rows, size)) + size * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size)
        parts.append(np.stack([one.score(counts.astype(float)) for one in scores], axis=1))
        left -= rows
    return np.concatenate(parts)


def interval(
    score: Resampled, drawn: np.ndarray, confidence: float = 0.95
) -> tuple[float, float] | None:
    """The score's interval over test examples: percentiles of its draws (B. Efron, 1979).

    A share of right answers that is 0 or 1 varies in no draw; its interval is that of Clopper and
    Pearson (1934).

    Args:
        score: of the examples.
        drawn: (B,) on draws.
        confidence: two-sided.

    Returns:
        None where hardly a draw has the score.
    """
    value = score.value
    tail = (1 - confidence) / 2
    if score.share and value in (0.0, 1.0):
        edge = 1 - tail ** (1 / score.size)
        return (0.0, edge) if value == 0 else (1 - edge, 1.0)
    known = drawn[np.isfinite(drawn)]
    if len(known) < len(drawn) / 2:
        return None
    low, high = np.quantile(known, (tail, 1 - tail))
    return float(low), float(high)


def mean(values: Sequence[float] | np.ndarray, share: bool = False) -> Resampled:
    """The mean of (N,) values; ``share``: each is 0 or 1."""
    each = np.asarray(values, dtype=float)
    return Resampled(lambda counts: counts @ each / counts.sum(1), len(each), each, share)


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> Resampled:
    """Share of equal entries of two (N,) arrays, or of equal rows of two (N, labels) arrays."""
    right = np.asarray(predictions) == np.asarray(labels)
    return mean(right if right.ndim == 1 else right.all(axis=1), share=True)


def ratio(above: Sequence[float] | np.ndarray, below: Sequence[float] | np.ndarray) -> Resampled:
    """A sum over another, of (N,) parts each: right words over words, losses over tokens."""
    return _of_sums(np.stack([above, below], axis=1), lambda s: _over(s[:, 0], s[:, 1], np.nan))


def binary_f1(predictions: np.ndarray, labels: np.ndarray) -> Resampled:
    """F1 of class 1 of two (N,) arrays of 0 and 1; 0 where neither has it."""
    found, true = np.asarray(predictions) == 1, np.asarray(labels) == 1
    return _of_sums(np.stack([found & true, found, true], axis=1), lambda s: _f1(s, 0.0))


def macro_f1(predictions: np.ndarray, labels: np.ndarray) -> Resampled:
    """Mean over classes of their F1, of two (N,) arrays; over the classes of the draw."""
    found, true = _marks(predictions, labels)
    return _of_sums(_three(found, true), lambda s: _mean_over(_f1(_by_class(s), np.nan)))


def matthews(predictions: np.ndarray, labels: np.ndarray) -> Resampled:
    """Matthews correlation of two (N,) arrays of any number of classes; 0 of a constant.

    R_K = (c s - sum p_k t_k) / sqrt((s^2 - sum p_k^2)(s^2 - sum t_k^2)) with c right answers of s
    and each class's number of predictions p_k and labels t_k (J. Gorodkin, 2004).
    """
    found, true = _marks(predictions, labels)

    def score(sums: np.ndarray) -> np.ndarray:
        right, p, t = np.moveaxis(_by_class(sums), -1, 0)
        total = t.sum(1)
        above = right.sum(1) * total - (p * t).sum(1)
        below = (total**2 - (p**2).sum(1)) * (total**2 - (t**2).sum(1))
        return _over(above, np.sqrt(np.maximum(below, 0)), 0.0)

    return _of_sums(_three(found, true), score)


def label_sets(predictions: np.ndarray, labels: np.ndarray, average: str) -> Resampled:
    """F1 of sets of labels, two (N, labels) arrays of booleans.

    Args:
        predictions, labels: what is said, and what is right.
        average: micro, over all labels together; macro, the mean over labels (0 of one that is
            neither said nor right).
    """
    found, true = np.asarray(predictions, dtype=bool), np.asarray(labels, dtype=bool)
    if average == "micro":
        rows = np.stack([(found & true).sum(1), found.sum(1), true.sum(1)], axis=1)
        return _of_sums(rows, lambda s: _f1(s, 0.0))
    return _of_sums(_three(found, true), lambda s: _f1(_by_class(s), 0.0).mean(1))


def of_tags(counts: np.ndarray, name: str) -> Resampled:
    """Scores of entities that are found.

    Args:
        counts: (N, 3), of each sentence the entities found rightly, those found, and those there.
        name: f1, precision or recall.
    """

    def score(sums: np.ndarray) -> np.ndarray:
        right, found, true = sums.T
        value = {
            "f1": _over(2 * right, found + true, 0.0),
            "precision": _over(right, found, 0.0),
            "recall": _over(right, true, 0.0),
        }[name]
        return np.where(true > 0, value, np.nan)

    return _of_sums(counts, score)


def pearson(predictions: np.ndarray, labels: np.ndarray) -> Resampled:
    """Pearson correlation of two (N,) arrays; 0 where either is constant."""
    x, y = (np.asarray(a, dtype=float) for a in (predictions, labels))
    return Resampled(lambda counts: _correlation(counts, x[None], y[None]), len(x))


def spearman(predictions: np.ndarray, labels: np.ndarray) -> Resampled:
    """Spearman correlation of two (N,) arrays, ranks being those in the draw."""
    x, y = _Ranks.of(predictions), _Ranks.of(labels)
    return Resampled(lambda counts: _correlation(counts, x.drawn(counts), y.drawn(counts)), x.size)


@dataclass(frozen=True)
class _Ranks:
    """Where values stand: ``group`` (N,) of equal values, numbered in ascending order."""

    group: np.ndarray
    size: int

    @classmethod
    def of(cls, values: Any) -> _Ranks:
        group = np.unique(np.asarray(values, dtype=float), return_inverse=True)[1]
        return cls(group.ravel(), len(group))

    def drawn(self, counts: np.ndarray) -> np.ndarray:
        """The mean rank of each value among the values of each draw, (B, N)."""
        order = np.argsort(self.group, kind="stable")
        starts = np.searchsorted(self.group[order], np.arange(self.group.max() + 1))
        sizes = np.add.reduceat(counts[:, order], starts, axis=1)
        ranks = np.cumsum(sizes, axis=1) - (sizes - 1) / 2
        return np.asarray(ranks[:, self.group])


def _correlation(counts: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of values (B or 1, N) in draws (B, N)."""
    total = counts.sum(1, keepdims=True)
    dx = x - (counts * x).sum(1, keepdims=True) / total
    dy = y - (counts * y).sum(1, keepdims=True) / total
    xx, yy = (counts * dx * dx).sum(1), (counts * dy * dy).sum(1)
    # what is left of a constant is rounding
    small = 1e-24 * total[:, 0] * (1 + (x**2).max()) * (1 + (y**2).max())
    value = _over((counts * dx * dy).sum(1), np.sqrt(xx * yy), 0.0)
    return np.where(xx * yy <= small, 0.0, value)


def _of_sums(rows: np.ndarray, score: Score) -> Resampled:
    table = np.asarray(rows, dtype=float)
    return Resampled(lambda counts: score(counts @ table), len(table))


def _f1(sums: np.ndarray, otherwise: float) -> np.ndarray:
    """Of the last axis: right, found, true."""
    return _over(2 * sums[..., 0], sums[..., 1] + sums[..., 2], otherwise)


def _over(above: np.ndarray, below: np.ndarray, otherwise: float) -> np.ndarray:
    """The quotient, and ``otherwise`` where it would be one by 0."""
    return np.divide(above, below, out=np.full(np.shape(below), otherwise), where=below > 0)


def _mean_over(values: np.ndarray) -> np.ndarray:
    """Over the last axis, of what is a number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmean(values, axis=-1))


def _marks(predictions: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Of each example a row with the class that is said, and one with the right class."""
    found, true = np.asarray(predictions), np.asarray(labels)
    classes = np.unique(np.concatenate([found, true]))
    return found[:, None] == classes, true[:, None] == classes


def _three(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """For each class whether it is right, said and true: (N, classes * 3)."""
    return np.stack([found & true, found, true], axis=2).reshape(len(found), -1)


def _by_class(sums: np.ndarray) -> np.ndarray:
    """(B, classes, 3) out of (B, classes * 3)."""
    return sums.reshape(len(sums), -1, 3)
