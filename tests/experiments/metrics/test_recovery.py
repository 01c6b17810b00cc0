"""Ranks that were found against known ones: correlation, hits, chance, area under the curve."""

import numpy as np
import pytest
import torch
from scipy import stats

from experiments.metrics.ranks import information, linear_costs, recovery

NAMES = [f"layer{i}" for i in range(8)]
TRUE = dict(zip(NAMES, [1, 2, 3, 4, 5, 6, 1, 2], strict=True))
COSTS = dict.fromkeys(NAMES, 10)


def test_scores_of_hand_made_ranks():
    true = {"a": 1, "b": 3, "c": 2}
    found = {"a": 2, "b": 3, "c": 4}
    scores = recovery(true, found, {"a": 10, "b": 100, "c": 1000})
    # ranks' ranks (1, 3, 2) and (1, 2, 3): 1 - 6 * (0 + 1 + 1) / (3 * 8)
    assert scores["spearman"] == pytest.approx(0.5)
    assert scores["pearson"] == pytest.approx(0.5)
    assert scores["exact"] == pytest.approx(1 / 3)
    assert scores["mean_absolute_error"] == pytest.approx((1 + 0 + 2) / 3)
    assert scores["bias"] == pytest.approx(1)
    # of the nine pairs (2, 3, 4) x (1, 3, 2): |.| = 1 1 0, 2 0 1, 3 1 2
    assert scores["error_by_chance"] == pytest.approx(11 / 9)
    assert scores["exact_by_chance"] == pytest.approx(2 / 9)
    assert scores["parameters"] == 2 * 10 + 3 * 100 + 4 * 1000
    assert scores["true_parameters"] == 1 * 10 + 3 * 100 + 2 * 1000
    assert scores["parameter_ratio"] == pytest.approx(4320 / 2310)


def test_the_truth_itself_has_the_best_score():
    scores = recovery(TRUE, TRUE, COSTS)
    assert scores["spearman"] == pytest.approx(1)
    assert scores["pearson"] == pytest.approx(1)
    assert (scores["exact"], scores["mean_absolute_error"], scores["bias"]) == (1, 0, 0)
    assert scores["parameter_ratio"] == 1
    # 4 of 8! deals leave the ranks as they are: the two 1s and the two 2s may be swapped
    assert scores["p_value"] == pytest.approx(1e-4, abs=3e-4)


def test_equal_ranks_have_no_correlation_and_are_no_better_than_chance():
    scores = recovery(TRUE, dict.fromkeys(NAMES, 3), COSTS)
    assert scores["spearman"] is scores["pearson"] is scores["p_value"] is None
    assert scores["exact"] == scores["exact_by_chance"] == 1 / 8
    assert scores["mean_absolute_error"] == scores["error_by_chance"]


def test_layers_of_one_side_only_have_rank_0_on_the_other():
    scores = recovery({"a": 2, "b": 1}, {"a": 2, "c": 3}, {"a": 5, "b": 5, "c": 7})
    assert scores["exact"] == pytest.approx(1 / 3)
    assert scores["mean_absolute_error"] == pytest.approx((0 + 1 + 3) / 3)
    assert (scores["parameters"], scores["true_parameters"]) == (2 * 5 + 3 * 7, 3 * 5)


def test_correlations_are_scipys():
    found = dict(zip(NAMES, [2, 2, 5, 3, 4, 8, 3, 1], strict=True))
    scores = recovery(TRUE, found, COSTS)
    a, b = list(TRUE.values()), list(found.values())
    assert scores["spearman"] == pytest.approx(stats.spearmanr(a, b).statistic)
    assert scores["pearson"] == pytest.approx(stats.pearsonr(a, b).statistic)
    rng = np.random.default_rng(1)
    dealt = np.array([stats.spearmanr(a, rng.permutation(b)).statistic for _ in range(2000)])
    as_large = np.mean(dealt >= scores["spearman"] - 1e-9)
    assert scores["p_value"] == pytest.approx(as_large, abs=0.03)


def spread(rank: int, k: int = 8, floor: float = 0.02) -> list[float]:
    """Softmax-like values: ``rank`` of them large."""
    row = np.array([1.0] * rank + [floor] * (k - rank))
    return list(row / row.sum())


def test_values_that_are_the_ranks_carry_all_the_information():
    found = information({name: spread(rank) for name, rank in TRUE.items()}, TRUE)
    for key in ("effective_rank", "participation", "selected"):
        assert found[key]["spearman"] == pytest.approx(1), key
        assert found[key]["p_value"] < 1e-3
    assert found["total"] == {"spearman": None, "p_value": None}  # softmax weights sum to 1
    assert found["components"]["auc"] > 0.9
    assert found["components"]["p_value"] < 1e-3


def test_order_and_sign_of_the_values_do_not_matter():
    rng = np.random.default_rng(0)
    rows = {name: rng.normal(size=8) for name in NAMES}
    mixed = {name: list(-rng.permutation(row)) for name, row in rows.items()}
    a = information({name: list(row) for name, row in rows.items()}, TRUE)
    b = information(mixed, TRUE)
    for key in a:
        assert a[key] == pytest.approx(b[key]), key


def test_gate_values_count_by_their_total():
    values = {name: [0.5 * (j < rank) for j in range(8)] for name, rank in TRUE.items()}
    assert information(values, TRUE)["total"]["spearman"] == pytest.approx(1)


def test_values_of_random_layers_look_random():
    """Over many draws: p-values are uniform, the AUC is 1/2, though the rule selects about k/2."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(60):
        logits = rng.normal(size=(8, 8)) * rng.uniform(0.1, 2, size=(8, 1))
        rows = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        found.append(information({n: list(r) for n, r in zip(NAMES, rows, strict=True)}, TRUE))
    for key in ("effective_rank", "participation", "components"):
        p = [f[key]["p_value"] for f in found]
        assert stats.kstest(p, "uniform").pvalue > 1e-3, key
    assert np.mean([f["components"]["auc"] for f in found]) == pytest.approx(0.5, abs=0.06)


def test_auc_against_counting_pairs():
    values = {"a": [3.0, 1.0], "b": [2.0, 2.0], "c": [1.0, 0.0]}
    # place 1: a, b need it, c does not: 3 > 1, 2 > 1; place 2: b alone: 2 > 1, 2 > 0
    assert information(values, {"a": 1, "b": 2, "c": 0})["components"]["auc"] == 1
    # place 1: c needs, a and b do not: 0 of 2; place 2: c alone: 0 of 2
    assert information(values, {"a": 0, "b": 0, "c": 2})["components"]["auc"] == 0
    ties = {"a": [1.0], "b": [1.0]}
    assert information(ties, {"a": 1, "b": 0})["components"]["auc"] == 0.5
    assert information(ties, {"a": 1, "b": 1})["components"] == {"auc": None, "p_value": None}


def test_layers_of_zeros_and_uniform_values_are_no_error():
    found = information({"a": [0.0, 0.0], "b": [1.0, 1.0], "c": [2.0, 0.0]}, {"a": 0, "b": 2})
    expected = stats.spearmanr([0, 2, 1], [0, 2, 0]).statistic
    assert found["effective_rank"]["spearman"] == pytest.approx(expected)
    uniform = information({name: [1 / 8] * 8 for name in NAMES}, TRUE)
    assert uniform["effective_rank"]["spearman"] is None
    assert uniform["components"]["auc"] == 0.5


def test_costs_are_inputs_and_outputs():
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 2))
    assert linear_costs(model, ["0", "1"]) == {"0": 8, "1": 7}
