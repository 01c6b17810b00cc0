"""Compute the papers' scores, by name, by scikit-learn and SciPy.

Both are loaded when a score is computed: a configuration is checked without them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bilevel.errors import UserError, listed
from experiments.answers import CLASSES, LABELS, NUMBER
from experiments.metrics.names import check_names

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "LABEL_SET_METRICS",
    "METRICS",
    "SIGNED",
    "USUAL",
    "accuracy",
    "check_metrics",
    "exact_match",
    "f1",
    "macro_f1",
    "matthews",
    "pearson",
    "spearman",
]


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


def exact_match(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Share of the n texts whose labels are all right, of two (n, labels) arrays of booleans."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(labels, predictions))


def _mean_f1(average: str) -> Callable[[np.ndarray, np.ndarray], float]:
    def score(predictions: np.ndarray, labels: np.ndarray) -> float:
        from sklearn.metrics import f1_score

        return float(f1_score(labels, predictions, average=average, zero_division=0.0))

    return score


# Of sets of labels: two (n, labels) arrays of booleans.
LABEL_SET_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "micro_f1": _mean_f1("micro"),
    "macro_f1": _mean_f1("macro"),
    "exact_match": exact_match,
}


OF_NUMBERS = ("pearson", "spearman")  # the others are of classes
SIGNED = (*OF_NUMBERS, "matthews")  # from -1 to 1; the others from 0 to 1

# What is scored where a task names no metrics, the primary one first.
USUAL: dict[str, tuple[str, ...]] = {
    CLASSES: ("accuracy", "macro_f1"),
    LABELS: tuple(LABEL_SET_METRICS),
    NUMBER: OF_NUMBERS,
}


def check_metrics(
    metrics: Sequence[str], classes: int | None, option: str = "task.metrics"
) -> None:
    """Refuse metrics that say nothing of such answers, before anything is trained.

    Args:
        metrics: their names.
        classes: how many there are, 2 or more; 1 for numbers; None for classes not yet counted.
        option: where the names were given, for the message.

    Raises:
        UserError: no metric, an unknown one, or one of another kind of answer.
    """
    allowed = [name for name in METRICS if (name in OF_NUMBERS) == (classes == 1)]
    check_names(metrics, METRICS, option, allowed)
    for metric in metrics:
        if metric not in allowed:
            of, other = ("numbers", "classes") if classes == 1 else ("classes", "numbers")
            raise UserError(
                f"{option}: {metric} is a score of {other}, and the task is one of {of}: allowed "
                f"are {listed(allowed)}"
            )
        if metric == "f1" and classes is not None and classes > 2:
            raise UserError(
                f"{option}: f1 is that of the second of two classes, and the task has {classes}: "
                "take macro_f1, the mean over classes"
            )
