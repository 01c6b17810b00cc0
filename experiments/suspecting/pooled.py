r"""Pool what two models say of a label, by weights fitted on the trusted examples.

One model has seen many labels of which some are wrong, the other few that are right. Which deserves
more belief depends on how much is wrong and on how many are trusted, so the trusted examples say
it. With p(k) of the first and q(k) of the second for an item they were not trained on,

    pooled(k) = softmax_k( c_k + a log p(k) + b log q(k) ),        a, b >= 0,

a logarithmic opinion pool (Genest, Zidek, Statistical Science 1986); a, b and c are those of

    min over a, b, c of   - mean over trusted items of log pooled(y)  +  (penalty / n) sum_k c_k^2.

c takes out what the wrong labels have done to the classes' shares. The score is -log pooled(given).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

__all__ = ["Pool", "fitted"]

PENALTY = 1.0
LEAST = 1e-9  # of a probability


@dataclass(frozen=True)
class Pool:
    """The weights.

    Attributes:
        first, second: a and b.
        shifts: c, (classes,).
    """

    first: float
    second: float
    shifts: np.ndarray

    def logs(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """log pooled(k) of each item.

        Args:
            first: p, (m, classes).
            second: q, (m, classes).

        Returns:
            (m, classes).
        """
        summed = self.shifts + self.first * _logs(first) + self.second * _logs(second)
        return np.asarray(log_softmax(summed, axis=1))


def fitted(first: np.ndarray, second: np.ndarray, right: np.ndarray) -> Pool:
    """The pool that says most of the trusted items.

    Args:
        first: p of items that the first model was not trained on, (m, classes).
        second: q of the same, of a model that was not trained on them either.
        right: (m,), their classes.
    """
    count, classes = first.shape
    logs = np.stack([_logs(first), _logs(second)])
    own = np.eye(classes)[right]

    def loss(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        weights, shifts = numbers[:2], numbers[2:]
        said = log_softmax(shifts + np.tensordot(weights, logs, 1), axis=1)
        off = (np.exp(said) - own) / count
        value = -float((said * own).sum()) / count + PENALTY * float(shifts @ shifts) / count
        slopes = [float((off * each).sum()) for each in logs]
        return value, np.array([*slopes, *(off.sum(0) + 2 * PENALTY * shifts / count)])

    bounds = [(0.0, None)] * 2 + [(None, None)] * classes
    found = minimize(loss, np.r_[0.5, 0.5, np.zeros(classes)], jac=True, bounds=bounds)
    return Pool(float(found.x[0]), float(found.x[1]), np.asarray(found.x[2:]))


def _logs(shares: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(np.maximum(shares, LEAST)))
