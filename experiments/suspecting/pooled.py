r"""Pool what two models say of labels, and tell how likely each given label is wrong.

One model has seen many labels of which some are wrong, the other few that are right. Which
deserves more belief depends on how much is wrong and on how many are trusted. With p(k) of the
first and q(k) of the second for an item that they were not trained on, the right class y is pooled
as

    P(y = k) = softmax_k( c_k + a log p(k) + b log q(k) ),         a, b >= 0

(a logarithmic opinion pool: Genest, Zidek, Statistical Science 1986), and the class that is given
depends on the right one alone, P(given = j | y = k) = T_kj. Weights a, b, c and the noise T
maximise the likelihood of what is known, the right classes of the trusted items and the given ones
of all others (logistic regression robust to label noise: Bootkrajang, Kaban, ECML 2012; T is that
of Patrini et al., CVPR 2017):

    sum over trusted of log P(y_i)  +  sum over the others of log sum_k P(y_i = k) T_{k, given_i}
        - penalty |c|^2,

by expectation and maximisation. The score is the probability that the given class is wrong,

    1 - P(y = given) T_{given, given} / sum_k P(y = k) T_{k, given}.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

__all__ = ["Pool", "fitted"]

PENALTY = 1.0
LEAST = 1e-9  # of a probability
START = 0.8  # of a given class that is right
ROUNDS, ENOUGH = 200, 1e-7  # of the likelihood's mean, between two rounds


@dataclass(frozen=True)
class Pool:
    """The weights, and the noise.

    Attributes:
        first, second: a and b.
        shifts: c, (classes,).
        noise: T, (classes, classes); rows are right classes and sum to 1.
    """

    first: float
    second: float
    shifts: np.ndarray
    noise: np.ndarray

    def logs(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """log P(y = k) of each item by what the models say alone.

        Args:
            first: p, (m, classes).
            second: q, (m, classes).

        Returns:
            (m, classes).
        """
        summed = self.shifts + self.first * _logs(first) + self.second * _logs(second)
        return np.asarray(log_softmax(summed, axis=1))

    def right(self, first: np.ndarray, second: np.ndarray, given: np.ndarray) -> np.ndarray:
        """P(y = k | given) of each item, (m, classes), by the models and the class given, (m,)."""
        joint = np.exp(self.logs(first, second)) * self.noise[:, given].T
        return np.asarray(joint / np.maximum(joint.sum(1, keepdims=True), LEAST))


@dataclass(frozen=True)
class Known:
    """Items whose right class is known.

    Attributes:
        first, second: p and q, (t, classes).
        right: (t,).
        weights: (t,), how much each counts.
    """

    first: np.ndarray
    second: np.ndarray
    right: np.ndarray
    weights: np.ndarray


def fitted(first: np.ndarray, second: np.ndarray, given: np.ndarray, known: Known) -> Pool:
    """The pool that makes what is known most likely.

    Args:
        first: p of the items, (m, classes).
        second: q of the same.
        given: (m,), their classes, of which some are wrong.
        known: of the trusted items.
    """
    count, classes = first.shape
    own = np.eye(classes)
    logs = np.concatenate(
        [
            np.stack([_logs(first), _logs(second)]),
            np.stack([_logs(known.first), _logs(known.second)]),
        ],
        axis=1,
    )
    sure = own[known.right] * known.weights[:, None]
    numbers = _weighted(logs[:, count:], sure, np.r_[0.5, 0.5, np.zeros(classes)])
    noise = own * START + (1 - own) * (1 - START) / max(1, classes - 1)
    before = -np.inf
    for _ in range(ROUNDS):
        pool = Pool(float(numbers[0]), float(numbers[1]), numbers[2:], noise)
        joint = np.exp(pool.logs(first, second)) * noise[:, given].T
        total = np.maximum(joint.sum(1, keepdims=True), LEAST)
        likely = (np.log(total).sum() + (sure * pool.logs(known.first, known.second)).sum()) / count
        if likely - before < ENOUGH:
            break
        before = likely
        beliefs = joint / total
        counts = beliefs.T @ own[given] + own  # as if each class had been given rightly once
        noise = counts / counts.sum(1, keepdims=True)
        numbers = _weighted(logs, np.concatenate([beliefs, sure]), numbers)
    return Pool(float(numbers[0]), float(numbers[1]), np.asarray(numbers[2:]), noise)


def _weighted(logs: np.ndarray, beliefs: np.ndarray, start: np.ndarray) -> np.ndarray:
    """a, b and c that make weighted classes most likely.

    Args:
        logs: of p and q, (2, m, classes).
        beliefs: weight of each class, (m, classes).
        start: a, b, c.
    """
    weight = beliefs.sum(1, keepdims=True)
    scale = float(weight.sum())

    def loss(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        shifts = numbers[2:]
        said = log_softmax(shifts + np.tensordot(numbers[:2], logs, 1), axis=1)
        off = (np.exp(said) * weight - beliefs) / scale
        value = (PENALTY * float(shifts @ shifts) - float((said * beliefs).sum())) / scale
        slopes = [float((off * each).sum()) for each in logs]
        return value, np.array([*slopes, *(off.sum(0) + 2 * PENALTY * shifts / scale)])

    bounds = [(0.0, None)] * 2 + [(None, None)] * (len(start) - 2)
    return np.asarray(minimize(loss, start, jac=True, bounds=bounds).x)


def _logs(shares: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(np.maximum(shares, LEAST)))
