"""Intervals over seeds and examples: by simulation, and against a second computation."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from experiments.metrics.crossed import crossed


def drawn(rng, seeds, examples, seed_sd, example_sd, rest_sd):
    """Differences whose mean is 0."""
    parts = (
        rng.normal(0, seed_sd, (seeds, 1)),
        rng.normal(0, example_sd, (1, examples)),
        rng.normal(0, rest_sd, (seeds, examples)),
    )
    return sum(parts)


@pytest.mark.parametrize(
    ("seeds", "spread"),
    [
        (3, (0, 1, 0.5)),
        *((3, (0.2, 1, 0.5)), (5, (0.2, 1, 0.5))),
        *((3, (0.1, 0.3, 1)), (3, (1, 0, 0.1))),
    ],
    ids=str,
)
def test_equal_methods_are_seldom_called_different(seeds, spread):
    rng = np.random.default_rng(0)
    trials = 2000
    wrong = sum(crossed(drawn(rng, seeds, 100, *spread)).shown for _ in range(trials))
    # 6 % and three standard deviations of so many draws
    assert wrong / trials < 0.06 + 3 * (0.06 * 0.94 / trials) ** 0.5


def test_a_difference_is_found():
    rng = np.random.default_rng(1)
    found = [crossed(0.2 + drawn(rng, 3, 872, 0.01, 1, 0.5)) for _ in range(200)]
    assert np.mean([one.shown and one.mean > 0 for one in found]) > 0.9


def test_the_mean_squares_are_those_of_an_analysis_of_variance():
    rng = np.random.default_rng(2)
    table = drawn(rng, 4, 30, 0.5, 1, 0.7) + 0.1
    frame = pd.DataFrame(table).stack().rename_axis(["seed", "example"]).rename("d").reset_index()
    grand = frame.d.mean()
    seed = frame.groupby("seed").d.transform("mean")
    example = frame.groupby("example").d.transform("mean")
    squares = [
        ((seed - grand) ** 2).sum() / 3,
        ((example - grand) ** 2).sum() / 29,
        ((frame.d - seed - example + grand) ** 2).sum() / (3 * 29),
    ]
    half = (
        stats.t.ppf(0.975, 3) ** 2 * squares[0]
        + stats.t.ppf(0.975, 29) ** 2 * (squares[1] - squares[2])
    ) / (4 * 30)
    found = crossed(table)
    assert found.mean == pytest.approx(grand, abs=1e-12)
    assert found.high - found.mean == pytest.approx(half**0.5, rel=1e-10)
    assert found.mean - found.low == pytest.approx(half**0.5, rel=1e-10)


def test_seeds_alone_give_students_interval():
    rng = np.random.default_rng(3)
    means = rng.normal(0.3, 1, 6)
    found = crossed(np.repeat(means[:, None], 50, axis=1))
    low, high = stats.t.interval(0.95, 5, means.mean(), stats.sem(means))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-10)
    assert found.shares == pytest.approx((1, 0, 0), abs=1e-12)


@pytest.mark.parametrize("shape", [(1, 10), (3, 1), (5,)])
def test_too_little_is_refused(shape):
    with pytest.raises(ValueError, match="two seeds"):
        crossed(np.zeros(shape))
