"""Ranks, areas and precision of scores, against pairs counted one by one."""

import numpy as np
import pytest

from experiments.suspecting.scores import Scores, area, combined, precision


def test_the_area_counts_pairs():
    draw = np.random.default_rng(0)
    score, wrong = draw.integers(0, 6, size=30).astype(float), draw.random(30) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in score[wrong] for b in score[~wrong]]
    assert area(score, wrong) == pytest.approx(np.mean(pairs), rel=1e-12)
    assert area(score, np.zeros(30, bool)) is None


def test_precision_is_of_the_most_suspect():
    wrong = np.array([True, False, True, False])
    assert precision(np.array([0.1, 0.9, 0.8, 0.2]), wrong).tolist() == [0, 1 / 2, 1 / 3, 2 / 4]


def test_the_combination_is_the_mean_rank():
    first, second = np.array([3.0, 1.0, 2.0]), np.array([0.0, 0.0, 9.0])
    assert combined([first, second]) == pytest.approx(
        [(2.5 + 1.0) / 6, (0.5 + 1.0) / 6, (1.5 + 2.5) / 6]
    )


def test_rank_one_is_the_most_suspect():
    scores = Scores({"trusted": np.array([0.5, 2.0, 0.5])}, None)
    assert scores.ranks("trusted").tolist() == [2, 1, 3]


def test_equal_mean_ranks_are_ties():
    """As rounded means they were not, and the file's order decided by noise."""
    draw = np.random.default_rng(0)
    columns = [draw.permutation(600).astype(float) for _ in range(3)]
    sums = sum(column + 1 for column in columns)
    assert len(np.unique(combined(columns))) == len(np.unique(sums))
