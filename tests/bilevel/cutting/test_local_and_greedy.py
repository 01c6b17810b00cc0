"""Saliency against central differences, greedy removal against brute force."""

import numpy as np
import pytest
import torch

from bilevel.cutting import Losses, Ranking, ScoringData
from bilevel.cutting.criteria import Greedy, Saliency
from bilevel.lowrank.layers import component_costs, down_and_up, lora_layers
from bilevel.lowrank.singular import to_singular_basis

ONE_BY_ONE = 1e-6  # block: a share that is always less than one component


def columns(model) -> dict[str, torch.Tensor]:
    return {n: down_and_up(layer)[1].weight for n, layer in lora_layers(model).items()}


def test_saliency_is_the_series_of_each_example_loss(adapted, scoring):
    model = adapted("bert")
    data = scoring(model)
    costs = component_costs(model)
    found = Saliency().score(model, data)
    step, expected = 1e-5, {}
    with torch.no_grad():
        for name, B in columns(model).items():
            expected[name] = torch.zeros(4, dtype=torch.float64)
            for j in range(4):
                column = B[:, j].clone()
                B[:, j] = (1 + step) * column
                plus = data.losses().totals
                B[:, j] = (1 - step) * column
                minus = data.losses().totals
                B[:, j] = column
                slopes = (plus - minus) / (2 * step)  # sigma dL_i / dsigma
                change = -slopes.mean() + (slopes**2).mean() / 2
                expected[name][j] = change / costs[name]
    least = min(float(row.min()) for row in expected.values())
    assert least < 0
    for name, row in found.items():
        torch.testing.assert_close(row, expected[name] - least, rtol=0, atol=1e-9)


def test_greedy_against_brute_force(adapted, scoring):
    targets = {"r": 3, "target_modules": ["query", "intermediate.dense"]}
    model, reference = adapted("bert", **targets), adapted("bert", **targets)
    scores = Greedy(block=ONE_BY_ONE).score(model, scoring(model))
    to_singular_basis(reference)
    costs, losses = component_costs(reference), scoring(reference).losses
    expected = []
    with torch.no_grad():
        left = [(name, j) for name in columns(reference) for j in range(3)]
        while left:
            now = losses().mean

            def missed(at, now=now):
                column = columns(reference)[at[0]][:, at[1]]
                kept = column.clone()
                column.zero_()
                found = (losses().mean - now) / costs[at[0]]
                column.copy_(kept)
                return found

            worst = min(left, key=missed)
            columns(reference)[worst[0]][:, worst[1]] = 0
            expected.append(worst)
            left.remove(worst)
    assert Ranking.of(model, scores).order == expected[::-1]


def pair(model, calls: list[int]) -> ScoringData:
    """Losses by which one of the two largest components of the first layer will do, not none."""
    name = next(iter(columns(model)))

    def losses() -> Losses:
        calls.append(1)
        norms = {n: B.norm(dim=0) for n, B in columns(model).items()}
        lost = 10.0 * float(norms[name][0] == 0 and norms[name][1] == 0)
        lost += sum(float((row == 0).sum()) for row in norms.values())
        lost -= 0.5 * float(norms[name][0] == 0) + 0.5 * float(norms[name][1] == 0)
        return Losses(np.full(4, lost), np.ones(4, dtype=int))

    return ScoringData([], losses)


@pytest.mark.parametrize("block", [ONE_BY_ONE, 0.05])
def test_greedy_keeps_one_of_two_that_do_the_same(adapted, block):
    """Each alone is missed least of all; only losses measured anew see that one is needed."""
    model = adapted("bert", target_modules=["query"])
    name = next(iter(lora_layers(model)))
    scores = Greedy(block=block).score(model, pair(model, []))
    places = sorted(scores[name][:2].tolist())
    assert places == [1, 8]


def test_greedy_in_blocks_measures_as_often_as_its_header_says(adapted):
    model = adapted("bert", r=8)  # 48 components
    calls: list[int] = []
    Greedy(block=0.25).score(model, pair(model, calls))
    assert 0.8 * 48 / 0.25 < len(calls) < 1.2 * 48 / 0.25
    calls.clear()
    Greedy(block=ONE_BY_ONE).score(model, pair(model, calls))
    assert len(calls) == sum(range(2, 49)) + 47


def test_greedy_removes_the_smallest_of_those_that_change_nothing(adapted):
    model = adapted("bert", target_modules=["query"])
    flat = ScoringData([], lambda: Losses(np.ones(4), np.ones(4, dtype=int)))
    scores = Greedy(block=ONE_BY_ONE).score(model, flat)
    sigma = to_singular_basis(model)
    by_place = torch.cat(list(scores.values())).argsort()
    by_size = torch.cat(list(sigma.values())).argsort()
    assert by_place.tolist() == by_size.tolist()
