"""The benchmark of comparisons: what it draws is as it says, and its rivals are what they are."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.comparison_power import (
    ACCURACY,
    DISAGREE,
    EXAMPLES,
    Answers,
    both_drawn,
    gaussian,
    over_one,
    rates,
    satterthwaite,
)


def test_gaussian_parts_have_the_spreads_asked_for() -> None:
    table = gaussian(np.random.default_rng(0), 400, (3.0, 0.0, 0.0))
    assert table.shape == (400, EXAMPLES)
    assert np.ptp(table, axis=1).max() == 0
    assert table[:, 0].std() == pytest.approx(3.0, rel=0.1)
    of_examples = gaussian(np.random.default_rng(0), 2, (0.0, 2.0, 0.0))
    assert np.ptp(of_examples, axis=0).max() == 0
    assert of_examples[0].std() == pytest.approx(2.0, rel=0.1)


def test_answers_are_right_and_disagree_as_often_as_was_measured() -> None:
    first, second = Answers().drawn(np.random.default_rng(0), 400)
    for right in (first, second):
        assert right.mean() == pytest.approx(ACCURACY, abs=0.02)
        # two seeds of one method; the seeds' own part adds a little
        assert (right[::2] != right[1::2]).mean() == pytest.approx(DISAGREE, abs=0.005)
    better, same = Answers().drawn(np.random.default_rng(0), 400, better=0.05)
    assert (better.mean() - same.mean()) == pytest.approx(0.05, abs=0.01)


def test_methods_with_a_part_of_their_own_differ_in_more_examples() -> None:
    """Each of them is as good as before."""
    apart = []
    for own in (0.0, 0.5):
        rng, answers = np.random.default_rng(1), Answers(own)
        first, second = np.stack([answers.drawn(rng, 2) for _ in range(40)], axis=1)
        apart.append((first != second).mean())
        assert first.mean() == pytest.approx(ACCURACY, abs=0.01)
    assert apart[1] > 2 * apart[0]


@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0])
def test_over_one_is_students_test(shift: float) -> None:
    for seed in range(20):
        values = np.random.default_rng(seed).normal(shift, 1, 12)
        assert over_one(values) == (stats.ttest_1samp(values, 0).pvalue < 0.05)


def test_a_difference_far_beyond_all_spread_is_called_by_every_way() -> None:
    found = rates(lambda rng: 10 + gaussian(rng, 4, (0.1, 0.1, 0.1)), 5)
    assert found == dict.fromkeys(found, 100.0)
    assert len(found) == 5
    none = rates(lambda rng: np.tile([1.0, -1.0], (4, EXAMPLES // 2)), 3)
    assert none == dict.fromkeys(none, 0.0)


def test_one_seed_has_no_ways_over_seeds() -> None:
    found = rates(lambda rng: 10 + gaussian(rng, 1, (0.0, 0.1, 0.1)), 2)
    assert {name for name, rate in found.items() if rate} == {"here", "examples"}


def test_satterthwaite_without_any_spread_calls_what_is_not_zero() -> None:
    assert satterthwaite(np.full((3, 8), 0.5))
    assert not satterthwaite(np.zeros((3, 8)))


def test_the_bootstrap_draws_seeds_too() -> None:
    """All examples alike, two seeds of opposite signs: over examples alone it would be certain."""
    table = np.array([[3.0] * 8, [-1.0] * 8])
    counts = np.ones((400, 8))
    assert not both_drawn(table, counts, np.random.default_rng(0))
    assert both_drawn(np.abs(table), counts, np.random.default_rng(0))
