"""How far the ranks of several runs agree."""

import itertools
import json
import warnings
from dataclasses import asdict

import numpy as np
import pytest

from experiments.metrics.agreement import ALL, agreement


def named(query: list[int], value: list[int]) -> dict[str, int]:
    return {
        f"bert.encoder.layer.{layer}.attention.self.{part}": rank
        for part, ranks in (("query", query), ("value", value))
        for layer, rank in enumerate(ranks)
    }


def positions(values: list[int]) -> np.ndarray:
    """Positions from the smallest, those of equal values their mean."""
    return np.array([sum(o < v for o in values) + (values.count(v) + 1) / 2 for v in values])


def by_hand(a: list[int], b: list[int]) -> tuple[float, float]:
    """Spearman's rho and Kendall's tau-b, as they are defined."""
    x, y = (positions(v) - (len(v) + 1) / 2 for v in (a, b))
    both = [
        (np.sign(i - j), np.sign(k - m))
        for (i, k), (j, m) in itertools.combinations(zip(a, b, strict=True), 2)
    ]
    untied = [sum(s[i] != 0 for s in both) for i in (0, 1)]
    tau = sum(s * t for s, t in both) / np.sqrt(untied[0] * untied[1])
    return float(x @ y / np.sqrt((x @ x) * (y @ y))), float(tau)


def test_correlations_are_means_over_the_pairs_of_runs() -> None:
    rows = np.random.default_rng(0).integers(0, 4, (4, 10)).tolist()  # with many ties
    found = agreement([named(row[:6], row[6:]) for row in rows])
    for kind, columns in ((ALL, slice(0, 10)), ("query", slice(0, 6)), ("value", slice(6, 10))):
        pairs = [by_hand(a[columns], b[columns]) for a, b in itertools.combinations(rows, 2)]
        rho, tau = np.mean(pairs, axis=0)
        assert found[kind].spearman == pytest.approx(rho, abs=1e-12)
        assert found[kind].kendall == pytest.approx(tau, abs=1e-12)
        assert (found[kind].pairs, found[kind].defined) == (6, 6)
        assert found[kind].mean_ranks == pytest.approx([np.mean(row[columns]) for row in rows])
    assert [found[kind].modules for kind in (ALL, "query", "value")] == [10, 6, 4]


def test_kinds_are_told_from_layers() -> None:
    # Values always get more than queries, and the layers are in opposite orders.
    found = agreement([named([1, 2, 3], [7, 8, 9]), named([3, 2, 1], [9, 8, 7])])
    assert found[ALL].spearman is not None
    assert found[ALL].spearman > 0.5
    assert found["query"].spearman == found["value"].spearman == pytest.approx(-1)
    assert found["query"].kendall == pytest.approx(-1)


def test_equal_ranks_are_undefined_and_count_in_no_mean() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = agreement([named([4, 4], [4, 4])] * 3)
        one = agreement([named([1, 2], [3, 3]), named([4, 4], [4, 4]), named([1, 2], [3, 4])])
    assert all(
        (o.spearman, o.kendall, o.pairs, o.defined) == (None, None, 3, 0) for o in same.values()
    )
    assert (one["query"].spearman, one["query"].defined) == (pytest.approx(1), 1)
    assert (one["value"].spearman, one["value"].defined) == (None, 0)
    assert one[ALL].defined == 1
    assert "NaN" not in json.dumps({kind: asdict(over) for kind, over in same.items()})


def test_a_module_that_one_run_left_out_has_rank_0_in_it() -> None:
    full = named([0, 1, 2], [3, 4, 5])
    cut = {name: rank for name, rank in full.items() if rank}
    assert agreement([full, cut]) == agreement([full, full])


@pytest.mark.parametrize("ranks", [[], [named([1, 2], [3, 4])], [{}, {}]])
def test_nothing_to_compare(ranks: list[dict[str, int]]) -> None:
    assert agreement(ranks) == {}
