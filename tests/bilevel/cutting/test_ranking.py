"""One order over layers of unequal shape, against all subsets; masks that leave no trace."""

import itertools

import pytest
import torch

from bilevel.cutting import Budget, Ranking
from bilevel.cutting.budget import part_of
from bilevel.cutting.ranking import masked
from bilevel.errors import UserError
from bilevel.lowrank.layers import lora_layers
from tests.bilevel.exported import logits, pruned


def ranking(worth: dict[str, list[float]], costs: dict[str, int]) -> Ranking:
    rows = {n: torch.tensor(row, dtype=torch.float64) / costs[n] for n, row in worth.items()}
    return Ranking(rows, costs)


WORTH = {"a": [9.0, 4.0, 1.0], "b": [8.0, 0.5], "c": [3.0, 2.5]}
COSTS = {"a": 30, "b": 11, "c": 7}


def test_no_subset_of_as_many_parameters_is_worth_more():
    found = ranking(WORTH, COSTS)
    every = [(name, j) for name, row in WORTH.items() for j in range(len(row))]
    for count in range(len(every) + 1):
        keep = found.first(count)
        kept = [(name, j) for name, j in every if keep[name][j]]
        room = sum(COSTS[name] for name, _ in kept)
        assert len(kept) == count
        assert found.cost(keep) == found.parameters(count) == room
        best = max(
            sum(WORTH[name][j] for name, j in subset)
            for size in range(len(every) + 1)
            for subset in itertools.combinations(every, size)
            if sum(COSTS[name] for name, _ in subset) <= room
        )
        assert sum(WORTH[name][j] for name, j in kept) == pytest.approx(best, abs=1e-12)


def test_even_keeps_the_best_of_every_layer():
    keep = ranking({"a": [1.0, 3.0, 2.0], "b": [5.0, 6.0]}, {"a": 2, "b": 3}).even(1)
    assert {n: mask.tolist() for n, mask in keep.items()} == {
        "a": [False, True, False],
        "b": [False, True],
    }


def test_equal_scores_are_shared_out_over_the_layers():
    keep = ranking({"a": [1.0, 1.0], "b": [1.0, 1.0]}, {"a": 1, "b": 1}).first(2)
    assert [int(mask.sum()) for mask in keep.values()] == [1, 1]


@pytest.mark.parametrize("bad", [-1e-9, float("nan"), float("inf")])
def test_scores_that_have_no_order_are_refused(bad):
    with pytest.raises(UserError, match="scores of a"):
        Ranking({"a": torch.tensor([1.0, bad])}, {"a": 1})


@pytest.mark.parametrize("count", [0, 5, 24])
def test_masks_hide_components_and_leave_no_trace(adapted, batch, count):
    model, reference = adapted("bert"), adapted("bert")
    rows = {name: torch.arange(1.0, 5.0) for name in lora_layers(model)}
    keep = Ranking.of(model, rows).first(count)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    pruned(reference, keep)
    with masked(model, keep):
        assert torch.equal(logits(model, batch), logits(reference, batch))
    with pytest.raises(ZeroDivisionError), masked(model, keep):
        raise ZeroDivisionError
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_budgets_in_three_words():
    found = ranking(WORTH, COSTS)
    assert found.total == 3 * 30 + 2 * 11 + 2 * 7
    assert Budget(budget=0.5).of(found) == 63
    assert Budget(parameters=40).of(found) == 40
    assert Budget(rank=2).of(found) == 96
    assert not Budget().told
    for word in ("rank", "parameters"):
        with pytest.raises(UserError, match=f"{word}=0"):
            Budget(**{word: 0})
    assert part_of(90 * 64, 0.7) == 63 * 64  # where 0.7 * 5760 is 4031.9999...
    assert part_of(100, 0.29) == 29
    assert part_of(100, 0.999) == 99
    with pytest.raises(UserError, match="parameters=127"):
        Budget(parameters=127).of(found)
    with pytest.raises(UserError, match="twice"):
        Budget(budget=0.5, rank=1)
