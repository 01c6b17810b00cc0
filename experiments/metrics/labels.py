"""The scores of the papers, by name, all of them computed by scikit-learn and SciPy."""

import warnings
from collections.abc import Callable

import numpy as np
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

__all__ = ["METRICS", "accuracy", "f1", "macro_f1", "matthews", "pearson", "spearman"]


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Share of equal entries of two (n,) arrays of class numbers."""
    return float(accuracy_score(labels, predictions))


def f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """F1 of class 1, over two (n,) arrays of the class numbers 0 and 1 (GLUE: MRPC, QQP)."""
    return float(f1_score(labels, predictions, zero_division=0.0))


def macro_f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Unweighted mean over classes of their F1, over two (n,) arrays of class numbers."""
    return float(f1_score(labels, predictions, average="macro", zero_division=0.0))


def matthews(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Matthews correlation of two (n,) arrays of class numbers; 0 when either is constant."""
    return float(matthews_corrcoef(labels, predictions))


def pearson(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Pearson correlation of two (n,) arrays; 0 when either is constant."""
    return _correlation(stats.pearsonr, predictions, labels)


def spearman(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Spearman rank correlation of two (n,) arrays; 0 when either is constant."""
    return _correlation(stats.spearmanr, predictions, labels)


def _correlation(function: Callable, predictions: np.ndarray, labels: np.ndarray) -> float:
    # Undefined for a constant; 0 (nothing predicted) as scikit-learn has it for Matthews.
    if len(labels) < 2 or np.ptp(predictions) == 0 or np.ptp(labels) == 0:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)
        return float(function(np.asarray(predictions), np.asarray(labels)).statistic)


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "macro_f1": macro_f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}
