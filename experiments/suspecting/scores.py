"""Put the scores of each training example side by side, rank them, and hold them against truth."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

__all__ = [
    "MEANINGS",
    "OF_CLASSES",
    "RECOMMENDED",
    "Scores",
    "area",
    "combined",
    "meaning",
    "precision",
]

# What the columns are; the larger, the likelier the label is wrong.
MEANINGS = {
    "weight": "1 - the weight learned by method=example_weights",
    "hypergradient": "minus the slope of the example's held-out loss along the trusted gradient",
    "confident": "confident learning: margin of calibrated held-out probabilities",
    "trusted": "loss of the label under a model trained on the trusted examples alone",
    "then_trusted": "loss of the label under models of the other labels, then of the trusted ones",
    "pooled": "probability that the label is wrong, by the last two kinds and the labels' noise",
    "combination": "mean rank by confident and trusted",
    "small_loss": "loss of the label under models trained on it",
}
OF_CLASSES = ("confident", "pooled")
# What ranks where nothing else is asked for: the first that a task has.
RECOMMENDED = ("pooled", "combination")


@dataclass(frozen=True)
class Scores:
    """The columns of n examples.

    Attributes:
        columns: name -> (n,); those that there are, in the order of `MEANINGS`.
        estimated: how many labels are likelier wrong than right, ``pooled`` above 1/2; None
            without classes.
        doubt: why the scores may mean little; None if nothing speaks against them.
        expected: how many labels are wrong, by the sum of ``pooled``'s probabilities; None of tags
            and without classes. More than ``estimated`` where models are unsure, since some of
            those that are likelier right are wrong.
    """

    columns: Mapping[str, np.ndarray]
    estimated: int | None
    doubt: str | None = None
    expected: float | None = None

    @property
    def recommended(self) -> str:
        """The column to rank by where nothing else is asked for."""
        return next(name for name in RECOMMENDED if name in self.columns)

    def ranks(self, name: str) -> np.ndarray:
        """(n,), from 1 for the most suspect; ties by their order."""
        order = np.argsort(-self.columns[name], kind="stable")
        ranks = np.empty(len(order), dtype=int)
        ranks[order] = np.arange(1, len(order) + 1)
        return ranks


def meaning(name: str, columns: Collection[str]) -> str:
    """What a column is, in a line; without classes ``combination`` has another half.

    Args:
        name: of the column.
        columns: the names of all that there are.
    """
    if name == "combination" and "confident" not in columns:
        return "mean rank by the loss under models of the other labels and by trusted"
    return MEANINGS[name]


def combined(columns: Sequence[np.ndarray]) -> np.ndarray:
    """The mean rank by several scores, ties shared, between 0 and 1; large for suspects."""
    # Ranks are added first, which is exact: equal sums are ties.
    total = np.sum([rankdata(c) for c in columns], axis=0)
    return np.asarray((total / len(columns) - 0.5) / len(total))


def area(score: np.ndarray, wrong: np.ndarray) -> float | None:
    """How often a wrong label scores above a right one, ties for a half (area under the ROC curve).

    Args:
        score: (n,).
        wrong: (n,), booleans.

    Returns:
        None where there is none of a kind.
    """
    bad, good = int(wrong.sum()), int((~wrong).sum())
    if not bad or not good:
        return None
    return float((rankdata(score)[wrong].sum() - bad * (bad + 1) / 2) / (bad * good))


def precision(score: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Share of wrong labels among the 1, 2, ..., n most suspect, (n,)."""
    order = np.argsort(-score, kind="stable")
    return np.asarray(np.cumsum(wrong[order]) / np.arange(1, len(order) + 1))
