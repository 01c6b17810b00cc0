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
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

__all__ = ["Crossed", "crossed"]


@dataclass(frozen=True)
class Crossed:
    """A difference and how sure it is.

    Attributes:
        mean: of the differences.
        low, high: the interval.
        confidence: of the interval.
        seeds, examples: S and N.
        shares: of Var(mean) that come of seeds, examples and the rest, as estimated.
    """

    mean: float
    low: float
    high: float
    confidence: float
    seeds: int
    examples: int
    shares: tuple[float, float, float]

    @property
    def shown(self) -> bool:
        """Whether the interval says which of the two is larger."""
        return self.low > 0 or self.high < 0


def crossed(differences: np.ndarray, confidence: float = 0.95) -> Crossed:
    """The mean difference over seeds and examples, with its interval.

    Args:
        differences: (S, N), S >= 2 seeds on the same N >= 2 examples. Of one seed there is nothing
            to learn about seeds: that is the paired difference over examples.
        confidence: of the two-sided interval.

    Raises:
        ValueError: fewer seeds or examples.
    """
    table = np.asarray(differences, dtype=float)
    if table.ndim != 2 or min(table.shape) < 2:
        raise ValueError(f"two seeds and two examples are the least, got {table.shape}")
    seeds, examples = table.shape
    mean = float(table.mean())
    by_seed, by_example = table.mean(1), table.mean(0)
    rest = table - by_seed[:, None] - by_example[None] + mean
    m_seed = examples * float(((by_seed - mean) ** 2).sum()) / (seeds - 1)
    m_example = seeds * float(((by_example - mean) ** 2).sum()) / (examples - 1)
    m_rest = float((rest**2).sum()) / ((seeds - 1) * (examples - 1))
    of_examples = max(m_example - m_rest, 0.0)
    tail = (1 + confidence) / 2
    t_seed, t_example = (float(stats.t.ppf(tail, n - 1)) for n in (seeds, examples))
    squared = t_seed**2 * m_seed + t_example**2 * of_examples
    half = math.sqrt(squared / (seeds * examples))
    parts = (max(m_seed - m_rest, 0.0), of_examples, m_rest)
    whole = sum(parts) or 1.0
    shares = (parts[0] / whole, parts[1] / whole, parts[2] / whole)
    return Crossed(mean, mean - half, mean + half, confidence, seeds, examples, shares)
