r"""Judge a difference between two methods that was measured over seeds and test examples.

d_ij, the difference of example j with the adapters of seed i, is a sum of four things: what is to
be known, what the seed does, what the example does, and the rest,

    d_ij = mu + s_i + e_j + r_ij,        i = 1 .. S,  j = 1 .. N.

The examples are the same with every seed, so that seeds do not make them more, nor examples seeds:
Var(mean) = s2_seed / S + s2_example / N + s2_rest / (S N). With the mean squares of seeds, examples
and rest, M_s, M_e, M_r, its estimate is (M_s + M_e - M_r) / (S N), and the interval

    mean +- sqrt((t_{S-1}^2 M_s + t_{N-1}^2 max(M_e - M_r, 0)) / (S N)),

each part with its own quantile of Student's t (W. G. Cochran's way with unequal variances; W. G.
Howe, Biometrika 61, 1974). Satterthwaite's degrees of freedom, the usual way, call up to 8 % of
equal methods different with three seeds, where the seed's part is of the size of the examples', and
this between 2 and 6 (tests/experiments/metrics/test_crossed.py).

Of few seeds M_s can come out at next to nothing, of right and wrong answers at exactly 0, which no
quantile mends. So the interval is never narrower than what the examples alone leave open,

    t_{N-1} sqrt(max(M_e, M_r) / (S N)).

The same holds of scores that are no mean over examples (F1, correlations, BLEU): there the
examples' parts come of a bootstrap over the examples, see :func:`bootstrapped`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

__all__ = ["Crossed", "Spread", "bootstrapped", "crossed"]

LEAST_P = 1e-12  # below it no difference is told from another


@dataclass(frozen=True)
class Spread:
    """How far a mean over seeds and examples may be off, in the parts that each has its own t for.

    Attributes:
        of_seeds: the seeds' part of the squared standard error, M_s / (S N); 0 for one seed.
        of_examples: the examples' part besides, max(M_e - M_r, 0) / (S N).
        seeds, examples: S and N.
        least: the examples' alone, max(M_e, M_r) / (S N).
    """

    of_seeds: float
    of_examples: float
    seeds: int
    examples: int
    least: float = 0.0

    def half(self, confidence: float) -> float:
        """Half of the width of the two-sided interval."""
        tail = (1 + confidence) / 2
        squared = 0.0
        for variance, n in ((self.of_seeds, self.seeds), (self.of_examples, self.examples)):
            if n > 1:
                squared += float(special.stdtrit(n - 1, tail)) ** 2 * variance
        least = float(special.stdtrit(self.examples - 1, tail)) ** 2 * self.least
        return math.sqrt(max(squared, least))

    def p_value(self, difference: float) -> float:
        """One minus the largest confidence with which the interval of a difference leaves out 0."""
        if difference == 0:
            return 1.0
        if self.of_seeds + self.of_examples + self.least == 0:
            return 0.0
        distance = abs(difference)
        if self.half(1 - LEAST_P) < distance:
            return LEAST_P
        from scipy import optimize

        return 1 - float(optimize.brentq(lambda c: self.half(c) - distance, 0, 1 - LEAST_P))


@dataclass(frozen=True)
class Crossed:
    """A difference and how sure it is.

    Attributes:
        mean: of the differences.
        low, high: the interval.
        confidence: of the interval.
        seeds, examples: S and N.
        shares: of Var(mean) that come of seeds, examples and the rest, as estimated.
        spread: what the interval is made of.
    """

    mean: float
    low: float
    high: float
    confidence: float
    seeds: int
    examples: int
    shares: tuple[float, float, float]
    spread: Spread

    @property
    def p(self) -> float:
        """The least level at which the interval leaves out 0."""
        return self.spread.p_value(self.mean)

    @property
    def shown(self) -> bool:
        """Whether the interval says which of the two is larger."""
        return self.low > 0 or self.high < 0


def crossed(differences: np.ndarray, confidence: float = 0.95) -> Crossed:
    """The mean difference over seeds and examples, with its interval.

    Args:
        differences: (S, N), of S seeds on the same N >= 2 examples. Of one seed there is nothing to
            learn about seeds: that is Student's paired difference over the examples alone.
        confidence: of the two-sided interval.

    Raises:
        ValueError: no seed, or fewer examples.
    """
    table = np.asarray(differences, dtype=float)
    if table.ndim != 2 or table.shape[0] < 1 or table.shape[1] < 2:
        raise ValueError(f"a seed and two examples are the least, got {table.shape}")
    seeds, examples = table.shape
    mean = float(table.mean())
    by_seed, by_example = table.mean(1), table.mean(0)
    m_example = seeds * float(((by_example - mean) ** 2).sum()) / (examples - 1)
    if seeds == 1:
        return _whole(mean, 0.0, m_example / examples, 0.0, (1, examples), confidence)
    rest = table - by_seed[:, None] - by_example[None] + mean
    m_seed = examples * float(((by_seed - mean) ** 2).sum()) / (seeds - 1)
    m_rest = float((rest**2).sum()) / ((seeds - 1) * (examples - 1))
    of_seed, of_example, of_rest = (m / table.size for m in (m_seed, m_example, m_rest))
    return _whole(mean, of_seed, of_example, of_rest, (seeds, examples), confidence)


def bootstrapped(
    values: np.ndarray, draws: np.ndarray, examples: int, confidence: float = 0.95
) -> Crossed:
    """The same of a score that is no mean over examples, by drawing the examples again.

    M_e / (S N) and M_r / (S N) are read off the bootstrap: the former is the variance over draws of
    the mean over seeds, the latter what is left in a draw when its mean and the seed's are taken
    off, over S. M_s / (S N) is the variance of the S scores over S. Seeds are not drawn again: of
    three seeds there are ten draws, and what they vary by is a third too little
    (benchmarks/comparison_power.py counts what that does).

    Args:
        values: (S,) the scores, or differences, of each seed on all examples.
        draws: (B, S) the same on B draws of the examples, with each draw the same for all seeds.
        examples: N.
        confidence: of the two-sided interval.

    Raises:
        ValueError: the shapes do not fit.
    """
    values, draws = np.asarray(values, dtype=float), np.asarray(draws, dtype=float)
    seeds = len(values)
    if seeds < 1 or draws.ndim != 2 or draws.shape[1] != seeds or len(draws) < 2:
        raise ValueError(f"scores {values.shape} and draws {draws.shape} do not fit")
    mean, each = float(values.mean()), draws.mean(1)
    of_examples = float(each.var(ddof=1))
    if seeds == 1:
        return _whole(mean, 0.0, of_examples, 0.0, (1, examples), confidence)
    rest = draws - each[:, None] - draws.mean(0)[None] + draws.mean()
    of_rest = float((rest**2).sum()) / ((seeds - 1) * (len(draws) - 1)) / seeds
    of_seeds = float(values.var(ddof=1)) / seeds
    return _whole(mean, of_seeds, of_examples, of_rest, (seeds, examples), confidence)


def _whole(
    mean: float,
    seed: float,
    example: float,
    rest: float,
    size: tuple[int, int],
    confidence: float,
) -> Crossed:
    """Out of the three mean squares, each over S N."""
    of_examples = max(example - rest, 0.0)
    spread = Spread(seed, of_examples, *size, max(example, rest))
    half = spread.half(confidence)
    parts = (max(seed - rest, 0.0), of_examples, rest)
    whole = sum(parts) or 1.0
    shares = (parts[0] / whole, parts[1] / whole, parts[2] / whole)
    return Crossed(mean, mean - half, mean + half, confidence, *size, shares, spread)
