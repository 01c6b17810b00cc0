"""Holm's step-down against its definition by closed testing, and against statsmodels."""

from itertools import combinations

import numpy as np
import pytest

from experiments.metrics.holm import holm


def closed(p_values):
    """A hypothesis falls where every set with it falls by Bonferroni: the largest such level."""
    everything = range(len(p_values))
    sets = [s for n in everything for s in combinations(everything, n + 1)]
    return [
        max(min(1.0, len(s) * min(p_values[j] for j in s)) for s in sets if i in s)
        for i in everything
    ]


@pytest.mark.parametrize("many", [1, 2, 5, 7])
def test_adjusted_as_closed_testing_has_it(many):
    rng = np.random.default_rng(many)
    for _ in range(20):
        p_values = rng.beta(0.3, 1, many).round(3).tolist()  # with ties, and small ones
        assert holm(p_values) == pytest.approx(closed(p_values), abs=1e-12)


def test_adjusted_as_statsmodels_has_it():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p_values = np.random.default_rng(0).beta(0.3, 1, 12)
    expected = multitest.multipletests(p_values, method="holm")[1]
    assert holm(p_values) == pytest.approx(expected, abs=1e-12)


def test_none_is_none():
    assert holm([]) == []
