r"""Fit a linear map to embeddings: logistic regression for classes, ridge regression for numbers.

    min over W, b of  1/n sum_i w_i l(W x_i + b, y_i) + penalty/2 |W|^2

over standardised embeddings x_i (mean 0 and spread 1 over the training rows), the bias free; for a
head that has none b and the mean are left out. With two classes |W| is that of the difference of
their rows. l is the cross-entropy of classes and tags, half the
squared error of numbers, and of sets of labels the binary cross-entropy, one fit a label. All by
scikit-learn; the standardisation is folded into W and b.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Fitted", "fits", "mean_loss"]

log = logging.getLogger(__name__)

Solve = Callable[[float], tuple[np.ndarray, np.ndarray]]

ITERATIONS = 1000  # of L-BFGS at most


class Fitted(NamedTuple):
    """A linear map of embeddings, and the penalty it was fitted with.

    Attributes:
        penalty: of |W|^2 / 2.
        weight: W, (k, d).
        bias: b, (k,).
    """

    penalty: float
    weight: np.ndarray
    bias: np.ndarray

    def outputs(self, x: np.ndarray) -> np.ndarray:
        """W x + b of each row, (n, d) -> (n, k)."""
        return x @ self.weight.T + self.bias


def fits(
    kind: str,
    x: np.ndarray,
    y: np.ndarray,
    outputs: int,
    penalties: Sequence[float],
    weights: np.ndarray | None = None,
    bias: bool = True,
) -> list[Fitted]:
    """A fit for each penalty, the strongest first, each started from the one before.

    Args:
        kind: of the answers: classes, tags, labels or number.
        x: embeddings, (n, d).
        y: numbers of classes (n,), numbers (n,), or of sets of labels 0 and 1 (n, k).
        outputs: k; classes that do not occur are given a bias that nothing chooses them by.
        penalties: any number of them.
        weights: of the rows, (n,); None for equal ones.
        bias: whether there is a b; 0 otherwise.
    """
    mean, spread = x.mean(axis=0), x.std(axis=0)
    mean = mean if bias else np.zeros_like(mean)
    spread = np.where(spread > 0, spread, 1).astype(x.dtype)
    x = (x - mean) / spread
    w = None if weights is None else weights / weights.mean()
    if kind == "number":
        solve = _ridge(x, y, w, bias)
    elif kind == "labels":
        solve = _one_against_none([_logistic(x, column.astype(int), 2, w, bias) for column in y.T])
    else:
        solve = _logistic(x, y, outputs, w, bias)
    found = []
    for penalty in sorted(penalties, reverse=True):
        weight, offset = solve(penalty)
        weight = weight / spread
        found.append(Fitted(penalty, weight, offset - weight @ mean))
    return found


def mean_loss(kind: str, outputs: np.ndarray, y: np.ndarray) -> float:
    """The task's loss, the mean over rows (of sets of labels over rows and labels).

    Args:
        kind: of the answers.
        outputs: of the linear map, (n, k).
        y: as :func:`fits` takes them.
    """
    outputs = outputs.astype(np.float64)
    if kind == "number":
        return float(np.mean((outputs[:, 0] - y) ** 2))
    if kind == "labels":
        return float(np.mean(np.logaddexp(0, outputs) - y * outputs))
    rest = outputs - outputs.max(axis=1, keepdims=True)
    right = rest[np.arange(len(y)), y]
    return float(np.mean(np.log(np.exp(rest).sum(axis=1)) - right))


def _ridge(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None, bias: bool) -> Solve:
    from sklearn.linear_model import Ridge  # here: a configuration is checked without it

    def solve(penalty: float) -> tuple[np.ndarray, np.ndarray]:
        model = Ridge(alpha=penalty * len(x), fit_intercept=bias)
        model.fit(x, y, sample_weight=weights)
        return np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_)

    return solve


def _logistic(
    x: np.ndarray, y: np.ndarray, outputs: int, weights: np.ndarray | None, bias: bool
) -> Solve:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    present = np.unique(y)
    absent = np.setdiff1d(np.arange(outputs), present)
    model = LogisticRegression(max_iter=ITERATIONS, warm_start=True, fit_intercept=bias)

    def solve(penalty: float) -> tuple[np.ndarray, np.ndarray]:
        weight = np.zeros((outputs, x.shape[1]), x.dtype)
        offset = np.zeros(outputs, x.dtype)
        if len(present) > 1:
            model.set_params(C=1 / (penalty * len(x)))
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                model.fit(x, y, sample_weight=weights)
            if any(issubclass(one.category, ConvergenceWarning) for one in said):
                log.info("penalty %g: stopped after %d steps of L-BFGS", penalty, ITERATIONS)
            two = len(present) == 2  # scikit-learn has one row for both
            sides = np.array([[-0.5], [0.5]], x.dtype)
            weight[present] = sides * model.coef_ if two else model.coef_
            offset[present] = sides[:, 0] * model.intercept_ if two else model.intercept_
        if bias:
            offset[absent] = offset[present].min() - np.log(len(x) + 1)
        return weight, offset

    return solve


def _one_against_none(solves: Sequence[Solve]) -> Solve:
    """One output a label: the logit of having it against not having it."""

    def solve(penalty: float) -> tuple[np.ndarray, np.ndarray]:
        each = [one(penalty) for one in solves]
        weight = np.stack([weight[1] - weight[0] for weight, _ in each])
        return weight, np.stack([offset[1] - offset[0] for _, offset in each])

    return solve
