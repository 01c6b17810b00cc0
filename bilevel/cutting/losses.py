"""Hold two sets of losses of the same examples against each other, example by example."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from bilevel.errors import UserError

__all__ = ["Difference", "Losses", "difference"]


class Losses(NamedTuple):
    """Losses of a model on n examples.

    Attributes:
        totals: (n,), the sum of an example's losses: one for a class, one a word for tags.
        terms: (n,), of how many losses each is the sum.
        constant: (n,), the sums that the best answer would have that is the same for all of them
            (the classes' shares, the mean number); None where there is none, of text.
    """

    totals: np.ndarray
    terms: np.ndarray
    constant: np.ndarray | None = None

    @property
    def mean(self) -> float:
        """The mean loss over all terms."""
        return float(self.totals.sum() / self.terms.sum())


class Difference(NamedTuple):
    """A difference of mean losses, and its standard error over examples; both in nats."""

    mean: float
    error: float


def difference(first: Losses, second: Losses) -> Difference:
    """The paired difference of two mean losses, first less second.

    With d_i the difference of example i and n_i its terms, the mean is m = sum d / sum n, and its
    standard error that of a ratio,  sqrt(N / (N - 1) sum_i (d_i - m n_i)^2) / sum n.

    Raises:
        UserError: they are not of the same examples, or of fewer than two.
    """
    if not np.array_equal(first.terms, second.terms):
        raise UserError("losses of different examples cannot be paired")
    count, terms = len(first.terms), first.terms.astype(float)
    if count < 2:
        raise UserError("a paired difference needs at least 2 examples")
    apart = first.totals - second.totals
    mean = float(apart.sum() / terms.sum())
    squares = float(((apart - mean * terms) ** 2).sum())
    return Difference(mean, math.sqrt(count / (count - 1) * squares) / float(terms.sum()))
