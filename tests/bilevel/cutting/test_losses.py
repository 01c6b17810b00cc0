"""Paired differences of mean losses, and how far they are to be trusted."""

import math

import numpy as np
import pytest

from bilevel.cutting.losses import Losses, difference
from bilevel.errors import UserError


def test_one_loss_an_example_is_the_paired_t_test():
    random = np.random.default_rng(0)
    first, second = random.normal(size=40), random.normal(size=40)
    ones = np.ones(40, dtype=int)
    found = difference(Losses(first, ones), Losses(second, ones))
    apart = first - second
    assert found.mean == pytest.approx(apart.mean(), abs=1e-12)
    assert found.error == pytest.approx(apart.std(ddof=1) / math.sqrt(40), abs=1e-12)


def test_many_losses_an_example_against_the_bootstrap():
    random = np.random.default_rng(1)
    terms = random.integers(1, 20, size=300)
    # words of one example go wrong together
    second = terms * random.normal(1.0, 0.2, size=300)
    first = second + terms * random.normal(0.1, 0.5, size=300)
    found = difference(Losses(first, terms), Losses(second, terms))
    assert found.mean == pytest.approx(first.sum() / terms.sum() - second.sum() / terms.sum())
    draws = random.integers(300, size=(4000, 300))
    means = (first - second)[draws].sum(1) / terms[draws].sum(1)
    assert found.error == pytest.approx(means.std(), rel=0.05)  # 4,000 draws: +- 1 %
    assert found.error > 1.05 * ((first - second) / terms).std() / math.sqrt(300)


def test_losses_that_are_no_pairs_are_refused():
    ones = np.ones(3, dtype=int)
    with pytest.raises(UserError, match="paired"):
        difference(Losses(np.zeros(3), ones), Losses(np.zeros(3), 2 * ones))
    with pytest.raises(UserError, match="at least 2"):
        difference(Losses(np.zeros(1), ones[:1]), Losses(np.zeros(1), ones[:1]))
