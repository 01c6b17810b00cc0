"""Scores of classes and numbers, by hand and by correlation."""

import numpy as np
import pytest

from experiments.metrics.labels import METRICS


def test_values_worked_out_by_hand():
    predictions, labels = np.array([1, 1, 0, 0, 1]), np.array([1, 0, 0, 1, 1])
    # true positives 2, true negatives 1, false positives 1, false negatives 1
    assert METRICS["accuracy"](predictions, labels) == pytest.approx(3 / 5, abs=1e-12)
    assert METRICS["f1"](predictions, labels) == pytest.approx(2 / 3, abs=1e-12)
    assert METRICS["macro_f1"](predictions, labels) == pytest.approx((2 / 3 + 1 / 2) / 2, abs=1e-12)
    assert METRICS["matthews"](predictions, labels) == pytest.approx((2 - 1) / 6, abs=1e-12)


def test_correlations():
    x = np.array([1.0, 2.0, 3.0, 4.0])
    assert METRICS["pearson"](2 * x + 1, x) == pytest.approx(1.0, abs=1e-12)
    assert METRICS["spearman"](np.exp(x), x) == pytest.approx(1.0, abs=1e-12)
    assert METRICS["pearson"](np.exp(x), x) < 0.99
    assert METRICS["spearman"](-x, x) == pytest.approx(-1.0, abs=1e-12)


@pytest.mark.parametrize("name", ["pearson", "spearman", "matthews"])
def test_a_constant_prediction_scores_zero(name):
    assert METRICS[name](np.ones(4), np.array([0, 1, 1, 0])) == 0.0
