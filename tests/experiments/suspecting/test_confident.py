"""Confident learning by its definition, written a second time with loops."""

import numpy as np
import pytest

from experiments.suspecting.confident import confident


def by_definition(probabilities, given):
    """Thresholds, and the class that each item counts as, one item at a time."""
    classes = range(probabilities.shape[1])
    mean = {
        k: sum(p[k] for p, y in zip(probabilities, given, strict=True) if y == k)
        / max(1, list(given).count(k))
        for k in classes
    }
    counted = []
    for p in probabilities:
        able = [k for k in classes if k in given and p[k] >= mean[k]]
        counted.append(max(able, key=lambda k: p[k]) if able else -1)
    return mean, counted


@pytest.mark.parametrize("seed", range(3))
def test_thresholds_counts_and_joint(seed):
    draw = np.random.default_rng(seed)
    probabilities = draw.dirichlet(np.ones(3), size=40)
    given = draw.integers(0, 3, size=40)
    found = confident(probabilities, given)
    mean, counted = by_definition(probabilities, given)
    assert found.thresholds == pytest.approx([mean[k] for k in range(3)], rel=1e-12)
    assert found.counted.tolist() == counted
    assert found.joint.sum() == sum(k >= 0 for k in counted)
    for i in range(40):
        y = given[i]
        others = [probabilities[i, k] - mean[k] for k in range(3) if k != y]
        assert found.margins[i] == pytest.approx(max(others) - (probabilities[i, y] - mean[y]))


def test_a_class_that_nobody_is_given_is_proposed_to_nobody():
    probabilities = np.array([[0.2, 0.2, 0.6], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1]])
    found = confident(probabilities, np.array([0, 1, 0]))
    assert np.isinf(found.thresholds[2])
    assert 2 not in found.counted
    assert np.isfinite(found.margins).all()


def test_where_all_are_given_one_class_nothing_speaks_against_it():
    found = confident(np.array([[0.7, 0.3], [0.2, 0.8]]), np.array([0, 0]))
    assert found.margins.tolist() == [0, 0]


def test_it_counts_the_wrong_labels_of_a_calibrated_model():
    """30 % of 3,000 labels flipped, probabilities right nine times out of ten: about 30 %."""
    draw = np.random.default_rng(0)
    right = draw.integers(0, 2, size=3000)
    given = np.where(draw.random(3000) < 0.3, 1 - right, right)
    one = np.clip(np.where(right == 1, 0.85, 0.15) + draw.normal(0, 0.1, 3000), 0.01, 0.99)
    found = confident(np.stack([1 - one, one], 1), given)
    doubted = (found.counted != given) & (found.counted >= 0)
    assert doubted.mean() == pytest.approx(0.3, abs=0.03)
    assert (doubted & (right != given)).sum() > 0.95 * doubted.sum()
