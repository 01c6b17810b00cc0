"""The pool of two models: what it believes, what it takes for noise, and who is wrong by it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from experiments.suspecting.pooled import PENALTY, RIDGE, USUAL, Known, fitted
from experiments.suspecting.scores import area


def made(seed, count, classes, first, second):
    """Right classes, and two models that know ``first`` and ``second`` of them, in log-odds."""
    random = np.random.default_rng(seed)
    right = random.integers(0, classes, count)
    own = np.eye(classes)[right]
    return right, *(
        softmax(size * own + random.normal(size=(count, classes)), 1) for size in (first, second)
    )


def noisy(seed, right, noise):
    """Classes that are given in the place of the right ones."""
    random = np.random.default_rng(seed)
    return np.array([random.choice(len(noise), p=noise[k]) for k in right])


SYMMETRIC = np.array([[0.7, 0.15, 0.15], [0.15, 0.7, 0.15], [0.15, 0.15, 0.7]])
SIDED = np.array([[1.0, 0.0], [0.4, 0.6]])


@pytest.mark.parametrize(("sizes", "trusted"), [((2.0, 0.0), 1500), ((1.0, 2.0), 60)])
def test_weights_and_noise_are_found(sizes, trusted):
    right, first, second = made(0, 6000, 3, *sizes)
    given = noisy(1, right, SYMMETRIC)
    known = Known(*(each[:trusted] for each in (first, second, right)))
    rest = slice(trusted, None)
    pool = fitted(first[rest], second[rest], given[rest], known)
    # Logits s e_y + N(0, 1) are evidence of s times their size.
    for weight, scale, size in zip(pool.weights, pool.scales, sizes, strict=True):
        assert weight / scale.spread == pytest.approx(size, abs=0.3)
    assert pool.noise == pytest.approx(SYMMETRIC, abs=0.06)
    assert pool.noise.sum(1) == pytest.approx(1)


def test_noise_of_one_side_is_told_from_a_rare_class():
    right, first, second = made(2, 4000, 2, 1.5, 1.5)
    given = noisy(3, right, SIDED)
    known = Known(*(each[:100] for each in (first, second, right)))
    rest = slice(100, None)
    pool = fitted(first[rest], second[rest], given[rest], known)
    assert pool.noise == pytest.approx(SIDED, abs=0.08)
    posterior = pool.right(first[rest], second[rest], given[rest])
    score = 1 - posterior[np.arange(3900), given[rest]]
    wrong = (given != right)[rest]
    assert score[given[rest] == 1].max() < 0.5  # who is given 1 is not suspected
    # What Bayes' rule says of the truth, to which no score has to add anything.
    evidence = 1.5 * (np.log(first) + np.log(second))
    ideal = softmax(evidence, 1) * SIDED[:, given].T
    ideal = 1 - (ideal / ideal.sum(1, keepdims=True))[np.arange(4000), given]
    assert area(score, wrong) == pytest.approx(area(ideal[rest], wrong), abs=0.01)
    assert score.sum() == pytest.approx(wrong.sum(), rel=0.15)


def test_it_is_a_maximum_of_the_likelihood():
    right, first, second = made(4, 300, 3, 1.0, 1.5)
    given = noisy(5, right, SYMMETRIC)
    known = Known(first[:40], second[:40], right[:40])
    rest = slice(40, None)
    pool = fitted(first[rest], second[rest], given[rest], known)

    def likelihood(a, b, c, noise):
        def shares(rows):
            z = [
                scale(each[rows]) for scale, each in zip(pool.scales, (first, second), strict=True)
            ]
            return softmax(c + a * z[0] + b * z[1], 1)

        sure = np.log(shares(slice(0, 40))[np.arange(40), right[:40]]).sum()
        total = float(np.log((shares(rest) * noise[:, given[rest]].T).sum(1)).sum())
        prior = np.log(np.diag(noise)).sum()
        stiff = RIDGE * ((a - USUAL[0]) ** 2 + (b - USUAL[1]) ** 2) + PENALTY * (c @ c)
        return sure + total + prior - stiff

    at = (*pool.weights, pool.shifts, pool.noise)
    best = likelihood(*at)
    for step in (0.02, -0.02):
        assert likelihood(at[0] + step, *at[1:]) < best
        assert likelihood(at[0], at[1] + step, *at[2:]) < best
        for k in range(3):
            assert likelihood(*at[:2], at[2] + step * np.eye(3)[k], at[3]) < best
            moved = at[3].copy()
            moved[k, k] -= step
            moved[k, (k + 1) % 3] += step
            assert likelihood(*at[:3], moved) < best


def test_weights_are_the_usual_ones_without_evidence():
    """And classes keep their shares: 4 trusted items and useless given labels move little."""
    right, first, second = made(6, 60, 2, 1.0, 1.0)
    given = np.random.default_rng(7).integers(0, 2, 60)
    known = Known(first[:4], second[:4], right[:4])
    pool = fitted(first[4:], second[4:], given[4:], known)
    assert pool.weights == pytest.approx(USUAL, abs=0.4)
    assert np.abs(pool.shifts).max() < 0.25


@pytest.mark.parametrize(("size", "doubted"), [(0.0, True), (2.0, False)])
def test_models_that_know_nothing_are_doubted(size, doubted):
    right, first, second = made(8, 400, 3, size, size)
    given = noisy(9, right, SYMMETRIC)
    known = Known(first[:60], second[:60], right[:60])
    pool = fitted(first[60:], second[60:], given[60:], known)
    assert (known.doubt(pool) is not None) == doubted


def test_a_share_of_nothing_is_no_infinite_belief():
    shares = np.array([[1.0, 0.0], [0.0, 1.0]])
    given = np.array([0, 1])
    pool = fitted(shares, np.full((2, 2), 0.5), given, Known(shares, shares, given))
    assert np.isfinite(pool.right(shares, shares[::-1], given)).all()
