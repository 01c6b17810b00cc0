"""Compute the losses of the best constant answer, which any model should beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import xlogy

__all__ = ["of_classes", "of_numbers", "of_sets", "of_tags"]


def of_classes(labels: np.ndarray) -> np.ndarray:
    """-log p of each label, p its share of all: (n,) in nats, of (n,) whole numbers from 0."""
    shares = np.bincount(labels) / max(len(labels), 1)
    return -np.log(shares[labels])


def of_numbers(labels: np.ndarray) -> np.ndarray:
    """(y - mean)^2: (n,) of (n,)."""
    return (labels - labels.mean()) ** 2


def of_sets(marks: np.ndarray) -> np.ndarray:
    """The binary cross-entropies of each label's own share p, summed: (n,) of (n, labels) 0 and 1.

    sum_l -m_l log p_l - (1 - m_l) log(1 - p_l), with 0 log 0 = 0.
    """
    shares = marks.mean(0)
    return -(xlogy(marks, shares) + xlogy(1 - marks, 1 - shares)).sum(1)


def of_tags(rows: Sequence[np.ndarray]) -> np.ndarray:
    """-log p of each word's tag, summed over a sentence's words: (n,) of n rows of tags."""
    sentence = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    each = of_classes(np.concatenate(rows))
    return np.bincount(sentence, weights=each, minlength=len(rows))
