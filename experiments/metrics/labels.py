"""Compute the papers' scores, by name, by scikit-learn and SciPy.

Both are loaded when a score is computed: a configuration is checked without them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

__all__ = ["METRICS", "accuracy", "f1", "macro_f1", "matthews", "pearson", "spearman"]


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Share of equal entries of two (n,) arrays of class numbers."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(labels, predictions))


def f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """F1 of class 1, over two (n,) arrays of the class numbers 0 and 1 (GLUE: MRPC, QQP)."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, zero_division=0.0))


def macro_f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Unweighted mean over classes of their F1, over two (n,) arrays of class numbers."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, average="macro", zero_division=0.0))


def matthews(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Matthews correlation of two (n,) arrays of class numbers; 0 when either is constant."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, predictions))


def pearson(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Pearson correlation of two (n,) arrays; 0 when either is constant."""
    from scipy.stats import pearsonr

    return _correlation(pearsonr, predictions, labels)


def spearman(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Spearman rank correlation of two (n,) arrays; 0 when either is constant."""
    from scipy.stats import spearmanr

    return _correlation(spearmanr, predictions, labels)


def _correlation(
    function: Callable[..., Any], predictions: np.ndarray, labels: np.ndarray
) -> float:
    import numpy as np
    from scipy.stats import NearConstantInputWarning

    # Undefined for a constant; 0 (nothing predicted) as scikit-learn has it for Matthews.
    if len(labels) < 2 or np.ptp(predictions) == 0 or np.ptp(labels) == 0:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NearConstantInputWarning)
        return float(function(np.asarray(predictions), np.asarray(labels)).statistic)


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "macro_f1": macro_f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}
