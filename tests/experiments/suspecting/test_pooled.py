"""The pool of two models: what it believes, its minimum, and that its score ranks wrong labels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from experiments.suspecting.pooled import PENALTY, fitted


def made(seed, count, classes, first, second):
    """Right classes, and two models that know ``first`` and ``second`` of them, in log-odds."""
    random = np.random.default_rng(seed)
    right = random.integers(0, classes, count)
    own = np.eye(classes)[right]
    return right, *(
        softmax(size * own + random.normal(size=(count, classes)), 1) for size in (first, second)
    )


def test_a_model_that_knows_nothing_has_no_say():
    right, first, second = made(0, 4000, 3, 2.0, 0.0)
    pool = fitted(first, second, right)
    # Logits s e_y + N(0, 1) of unit spread are evidence s times their size: a is s.
    assert pool.first == pytest.approx(2.0, abs=0.15)
    assert pool.second < 0.1
    assert np.abs(pool.shifts - pool.shifts.mean()).max() < 0.2
    right, first, second = made(1, 4000, 3, 1.0, 2.0)
    pool = fitted(first, second, right)
    assert pool.first == pytest.approx(1.0, abs=0.15)
    assert pool.second == pytest.approx(2.0, abs=0.15)


def test_shares_of_classes_are_put_right():
    right, first, second = made(2, 4000, 2, 2.0, 0.0)
    tilted = first * np.array([4.0, 1.0])
    pool = fitted(tilted / tilted.sum(1, keepdims=True), second, right)
    # a log 4 too much for class 0
    assert pool.shifts[1] - pool.shifts[0] == pytest.approx(pool.first * np.log(4), abs=0.15)


def test_it_is_the_minimum():
    right, first, second = made(3, 30, 3, 1.0, 1.5)
    pool = fitted(first, second, right)

    def loss(a, b, c):
        said = log_softmax(c + a * np.log(first) + b * np.log(second), 1)
        return -said[np.arange(30), right].mean() + PENALTY * (c @ c) / 30

    best = loss(pool.first, pool.second, pool.shifts)
    for step in (1e-2, -1e-2):
        assert loss(pool.first + step, pool.second, pool.shifts) > best
        assert loss(pool.first, pool.second + step, pool.shifts) > best
        for k in range(3):
            assert loss(pool.first, pool.second, pool.shifts + step * np.eye(3)[k]) > best


def test_a_share_of_nothing_is_no_infinite_belief():
    pool = fitted(np.array([[1.0, 0.0], [0.0, 1.0]]), np.full((2, 2), 0.5), np.array([0, 1]))
    assert np.isfinite(pool.logs(np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]]))).all()
