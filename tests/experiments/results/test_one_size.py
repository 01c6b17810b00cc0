"""What is left of recorded singular values at one size, against the order that the cut makes."""

import numpy as np
import pytest
import torch

from bilevel.cutting import Ranking
from experiments.results.one_size import Components, components, cut_to_one_size

SAVED = {"ranks": {"a": 1, "b": 1, "c": 1}}
COSTS = {"a": 20, "b": 30, "c": 7}


def line(step: int, values: dict[str, list[float]], **more):
    return {"stage": "train", "step": step, "kind": "singular", "singular": values, **more}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.0, 0.13, 0.5, 0.77, 1.0])
def test_it_keeps_what_a_cut_by_singular_values_keeps(seed, share):
    draw = np.random.default_rng(seed)
    values = {name: draw.gamma(1.0, size=6).round(1) for name in COSTS}  # with ties
    found = Components(values, COSTS)
    scores = {name: torch.from_numpy(row**2 / COSTS[name]) for name, row in values.items()}
    ranking = Ranking(scores, COSTS)
    assert found.parameters == ranking.total == 6 * 57
    size = int(share * found.parameters)
    expected = ranking.within(size)
    assert found.within(size) == {name: int(mask.sum()) for name, mask in expected.items()}


def test_values_are_those_of_the_weights_that_were_kept():
    early, late = {"a": [3.0], "b": [1.0], "c": [0.0]}, {"a": [1.0], "b": [3.0], "c": [9.0]}
    lines = [line(10, early, costs=COSTS), line(20, late)]
    found = components(lines, SAVED)
    assert found is not None
    assert {name: row.tolist() for name, row in found.values.items()} == late
    assert found.costs == COSTS
    kept = {"stage": "train", "step": 12, "kind": "kept"}
    found = components([*lines, kept], SAVED)
    assert found is not None
    assert {name: row.tolist() for name, row in found.values.items()} == early


@pytest.mark.parametrize(
    "records",
    [
        [],
        [line(1, {"a": [1.0]})],  # of a version that wrote no costs
        [line(1, {"a": [1.0]}, costs={"b": 3})],
    ],
)
def test_what_is_not_recorded_is_not_cut(records):
    assert components(records, {"ranks": {"a": 1}}) is None
    fine = [line(1, {"a": [2.0, 1.0]}, costs={"a": 10})], {"ranks": {"a": 2}}
    assert cut_to_one_size([fine, (records, {"ranks": {"a": 1}})]) is None
    assert cut_to_one_size([fine, fine]) == (10, [{"a": 1}, {"a": 1}])


def test_the_size_is_half_of_the_smallest():
    costs = {"a": 10, "b": 10}
    small = [line(1, {"a": [2.0], "b": [1.0]}, costs=costs)], {"ranks": {"a": 1, "b": 1}}
    large = [line(1, {"a": [2.0, 1.9], "b": [1.0, 0.5]}, costs=costs)], {"ranks": {"a": 2, "b": 2}}
    assert cut_to_one_size([small, large]) == (10, [{"a": 1, "b": 0}, {"a": 1, "b": 0}])


@pytest.mark.parametrize(
    ("result", "left"),
    [
        ({"ranks": {"a": 1, "b": 2}, "cut": "singular"}, {"a": [5.0], "b": [4.0, 2.0]}),
        ({"ranks": {"a": 1, "b": 2}, "cut": "activation"}, None),  # in a basis of its own
        ({"ranks": {"a": 1, "b": 2}, "cut": None}, None),  # SaLoRA's gates have closed
        ({"ranks": {"a": 3, "b": 3}, "cut": "activation"}, {"a": [1.0, 5.0, 3.0], "b": [2, 4, 1]}),
        ({"ranks": {"fused": 3}, "cut": None}, {"a": [1.0, 5.0, 3.0], "b": [2, 4, 1]}),
        ({"ranks": {"fused": 3}, "cut": "singular"}, None),
    ],
)
def test_of_a_run_that_cut_itself_it_is_what_stayed(result, left):
    values = {"a": [1.0, 5.0, 3.0], "b": [2.0, 4.0, 1.0]}
    found = components([line(9, values, costs={"a": 10, "b": 10})], result)
    assert (found and {name: row.tolist() for name, row in found.values.items()}) == left
