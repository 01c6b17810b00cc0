"""The order in which the loss can spare planted components."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from experiments.metrics.ranks import recovery
from experiments.models import planted_removal
from experiments.models.planted_networks import PlantedNetworks, plant
from experiments.models.planted_problem import PlantedProblem
from experiments.models.planted_removal import Removal, removal
from experiments.tasks.planted import Planted

SMALL = PlantedProblem(layers=2, hidden=16, heads=2, classes=4, ranks=(2, 0, 1, 2))
EVERYWHERE = ("query", "attention.output.dense", "pooler.dense", "classifier")


class Part:
    """A part of an update, as `plant` takes it."""

    def __init__(self, matrix):
        self.matrix = matrix

    def delta(self):
        return self.matrix


@pytest.mark.parametrize(
    "problem",
    [
        SMALL,
        replace(SMALL, decay=0.6, rescale=3.0),
        replace(SMALL, targets=EVERYWHERE, ranks=(1, 1, 2, 1, 1, 1)),
    ],
)
def test_the_order_is_that_of_brute_force(problem):
    """Every teacher that is left is built anew and asked by the library, in float64."""
    networks = PlantedNetworks(problem)
    ids = networks.sequences(planted_removal.SEQUENCES, networks.generator("removal"))
    base = networks.teacher()
    parts = {}
    for name, update in networks.updates().items():
        base.get_submodule(name).weight.data -= update.delta()
        for j, part in enumerate(update.components()):
            parts[name, j] = part
    with torch.no_grad():
        labels = networks.teacher()(input_ids=ids).logits.argmax(1)

    @torch.no_grad()
    def loss(kept):
        model = copy.deepcopy(base)
        for name, j in kept:
            plant(model, {name: Part(parts[name, j])})
        return float(functional.cross_entropy(model(input_ids=ids).logits, labels))

    left, order = list(parts), []
    losses = [loss(left)]
    while left:
        costs = {part: loss([other for other in left if other != part]) for part in left}
        least = min(costs, key=costs.get)
        left.remove(least)
        order.append(least)
        losses.append(costs[least])
    found = removal(problem)
    assert list(found.order) == order
    # single precision against double
    assert found.losses == pytest.approx(losses, abs=1e-5)
    assert found.ranks(len(order)) == networks.true_ranks()


def test_ranks_at_a_total_and_what_the_loss_needs():
    order = (("b", 1), ("a", 0), ("b", 0), ("c", 0))
    found = Removal(("a", "b", "c", "d"), order, (1.0, 1.01, 0.99, 1.4, 2.0))
    assert list(found.ranks(2).items()) == [("a", 0), ("b", 1), ("c", 1), ("d", 0)]
    assert sum(found.ranks(0).values()) == 0
    assert found.ranks(9) == found.ranks(4) == {"a": 1, "b": 2, "c": 1, "d": 0}
    assert found.needed() == 2  # 0.02 of 1 may be lost
    assert found.needed(0.0) == 4  # the first removal costs 0.01
    assert found.needed(0.5) == 1
    assert found.needed(1.0) == 0
    costs = {"a": 10, "b": 20, "c": 30, "d": 1}
    assert [found.total_for(n, costs) for n in (29, 30, 59, 60, 99)] == [0, 1, 2, 3, 4]


def test_a_component_without_effect_is_removed_first_and_is_no_part_of_true_ranks():
    faint = replace(SMALL, ranks=(2, 0, 1, 2), decay=1e-6)
    data = Planted(faint, 20, 20).load()
    names = list(PlantedNetworks(faint).updates())
    assert {data.removal.order[0], data.removal.order[1]} == {(names[0], 1), (names[3], 1)}
    assert list(data.true_ranks.values()) == [1, 0, 1, 1]
    costs = dict.fromkeys(names, 32)
    assert recovery(data.removal.ranks(3), data.true_ranks, costs)["exact"] == 1.0


def test_nothing_is_removed_unless_it_is_asked_for(monkeypatch):
    def refuse(problem):
        raise AssertionError

    monkeypatch.setattr("experiments.tasks.kinds.planted_data.removal", refuse)
    data = Planted(replace(SMALL, rescale=2.0), 20, 20).load()
    assert list(data.true_ranks.values()) == [2, 0, 1, 2]
