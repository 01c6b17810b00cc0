"""Intervals over seeds and examples: by simulation, and against a second computation."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.comparison_power import Answers, f1_rate
from experiments.metrics.crossed import bootstrapped, crossed


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


def test_one_seed_gives_the_paired_interval_over_examples():
    rng = np.random.default_rng(4)
    first, second = rng.normal(0, 1, (2, 40))
    found, ours = stats.ttest_rel(first, second), crossed((first - second)[None])
    ends = found.confidence_interval(0.95)
    assert (ours.low, ours.high) == pytest.approx((ends.low, ends.high), rel=1e-10)
    assert ours.p == pytest.approx(found.pvalue, rel=1e-6)
    assert (ours.seeds, ours.examples) == (1, 40)


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_p_is_the_level_at_which_the_interval_ends_in_zero(seeds):
    rng = np.random.default_rng(seeds)
    table = 0.3 + drawn(rng, seeds, 50, 0.1, 1, 0.5)
    p = crossed(table).p
    ends = crossed(table, confidence=1 - p)
    assert min(abs(ends.low), abs(ends.high)) == pytest.approx(0, abs=1e-8)
    assert crossed(table, confidence=1 - 1.01 * p).shown
    assert not crossed(table, confidence=1 - 0.99 * p).shown
    assert crossed(table).shown == (p < 0.05)


def test_what_does_not_differ_is_not_called_different():
    found = crossed(np.zeros((3, 20)))
    assert (found.low, found.high, found.p, found.shown) == (0, 0, 1, False)
    assert crossed(np.ones((3, 20))).p == 0


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_bootstrap_of_a_mean_gives_the_same_interval(seeds):
    rng = np.random.default_rng(5)
    table = 0.1 + drawn(rng, seeds, 400, 0.05, 1, 0.5)
    counts = rng.multinomial(400, [1 / 400] * 400, size=20_000)
    found = bootstrapped(table.mean(1), counts @ table.T / 400, 400)
    exact = crossed(table)
    assert found.mean == pytest.approx(exact.mean, abs=1e-12)
    # a variance of 20,000 draws has a standard error of 1 %
    assert found.high - found.low == pytest.approx(exact.high - exact.low, rel=0.03)
    assert found.shares == pytest.approx(exact.shares, abs=0.05)
    assert found.p == pytest.approx(exact.p, rel=0.1)


@pytest.mark.parametrize("seeds", [3, 5])
def test_equal_f1s_are_seldom_called_different(seeds):
    trials = 150
    assert f1_rate(Answers(), seeds, trials) < 6 + 300 * (0.06 * 0.94 / trials) ** 0.5


def test_a_difference_in_accuracy_is_found_as_the_benchmark_says():
    rng = np.random.default_rng(6)
    answers = Answers()
    pairs = [answers.drawn(rng, 5, 0.05) for _ in range(100)]
    found = [crossed(first.astype(float) - second) for first, second in pairs]
    assert np.mean([one.mean for one in found]) == pytest.approx(0.05, abs=0.005)
    assert np.mean([one.shown for one in found]) > 0.9


def test_the_squares_are_those_of_statsmodels():
    formula = pytest.importorskip("statsmodels.formula.api")
    anova = pytest.importorskip("statsmodels.stats.anova")
    rng = np.random.default_rng(7)
    table = drawn(rng, 4, 30, 0.5, 1, 0.7) + 0.1
    frame = pd.DataFrame(table).stack().rename_axis(["seed", "example"]).rename("d").reset_index()
    squares = anova.anova_lm(formula.ols("d ~ C(seed) + C(example)", frame).fit()).mean_sq
    spread = crossed(table).spread
    assert spread.of_seeds == pytest.approx(squares["C(seed)"] / 120, rel=1e-9)
    of_examples = (squares["C(example)"] - squares["Residual"]) / 120
    assert spread.of_examples == pytest.approx(of_examples, rel=1e-9)


@pytest.mark.parametrize("shape", [(0, 10), (3, 1), (5,)])
def test_too_little_is_refused(shape):
    with pytest.raises(ValueError, match="two examples"):
        crossed(np.zeros(shape))


def test_draws_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="draws"):
        bootstrapped(np.zeros(3), np.zeros((10, 2)), 5)


def test_of_two_seeds_that_happen_to_agree_little_is_known():
    """Right and wrong answers: the seeds' mean square is often exactly 0, and no error with it."""
    one, other = np.zeros(10), np.zeros(10)
    one[1] = other[2] = 1.0
    found = crossed(np.stack([one, other]))
    assert not found.shown
    alone = stats.t.ppf(0.975, 9) * np.sqrt(found.spread.least)
    assert found.high - found.mean == pytest.approx(alone)
    assert found.p > 0.05
    drawn = np.random.default_rng(0)
    p = []
    for _ in range(1500):  # equal methods
        right = drawn.random((2, 2, 100)) < 0.5 + 0.4 * drawn.random(100)
        p.append(crossed(right[0].astype(float) - right[1]).p)
    assert np.mean(np.array(p) < 0.001) <= 0.004
    assert np.mean(np.array(p) < 0.05) <= 0.06
