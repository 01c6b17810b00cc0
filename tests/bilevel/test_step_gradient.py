"""A level that no gradient reaches says so."""

import logging
import re
from pathlib import Path

import pytest
import torch

from bilevel import BilevelEngine, BilevelEngineConfig, LowerProblem, UpperProblem
from bilevel.hypergradient import NoHypergradient, Unrolled
from tests.bilevel.graphs import vector_problem
from tests.bilevel.toys import STRICT, flat, two_levels

pytestmark = STRICT


class Ridge(LowerProblem):
    def training_step(self, batch):
        w = self.module.w
        return ((w - 1).square() + self.mid.module.w.exp() * w.square()).sum()


class Mid(LowerProblem):
    def training_step(self, batch):
        w = self.module.w
        return ((self.ridge.module.w - 2).square() + self.top.module.w.exp() * w.square()).sum()


class OfTheRidge(UpperProblem):
    def training_step(self, batch):
        return (self.ridge.module.w - 3).square().sum()


class OfTheMiddle(UpperProblem):
    def training_step(self, batch):
        return (self.mid.module.w - 3).square().sum()


def three(cls):
    """What the top of three levels trains, before and after.

    The top's value regularises the middle one, whose value regularises the ridge.
    """
    ridge = vector_problem(Ridge, "ridge", 1, 0, lr=0.05, hypergradient=Unrolled())
    mid = vector_problem(Mid, "mid", 1, 1, lr=0.05, hypergradient=Unrolled())
    top = vector_problem(cls, "top", 1, 2, lr=0.05)
    graph = {"u2l": {top: [mid], mid: [ridge]}, "l2u": {ridge: [mid], mid: [top]}}
    before = flat(top.trainable_parameters()).clone()
    BilevelEngine([ridge, mid, top], BilevelEngineConfig(train_iters=3), graph).run()
    return before, flat(top.trainable_parameters())


def test_a_top_whose_loss_reads_the_lowest_level_alone(caplog):
    before, after = three(OfTheRidge)
    assert torch.equal(before, after)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("problem 'top' got no gradient at its first step")
    assert record.getMessage().endswith("comes back to it (mid)")


def test_a_top_whose_loss_reads_the_middle(caplog):
    before, after = three(OfTheMiddle)
    assert not torch.equal(before, after)
    assert not caplog.records


def test_the_pages_three_levels_run(caplog):
    page = Path(__file__).parents[2] / "docs" / "engine.md"
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    (block,) = [block for block in blocks if "class Mid(" in block]
    names = {}
    exec(block, names)
    assert abs(names["top"].module.value.item() - 1.0) > 1e-3
    assert not caplog.records


class OfTheLower(UpperProblem):
    def training_step(self, batch):
        return self.lower.module.w.square().sum()


class Shifted(LowerProblem):
    def training_step(self, batch):
        return (self.module.w - self.upper.module.w).square().sum()


@pytest.mark.parametrize(
    ("edges", "estimator", "told"),
    [(False, Unrolled(), 1), (True, Unrolled(), 0), (True, NoHypergradient(), 1)],
)
def test_no_edge_down_and_no_hypergradient(caplog, edges, estimator, told):
    """Said once, though accumulated batches and steps follow."""
    lower = vector_problem(Shifted, "lower", 2, 0, hypergradient=estimator)
    upper = vector_problem(OfTheLower, "upper", 2, 1, batches=(0.0, 0.0), gradient_accumulation=2)
    before = flat(upper.trainable_parameters()).clone()
    graph = {"u2l": {upper: [lower]} if edges else {}, "l2u": {lower: [upper]}}
    BilevelEngine([lower, upper], BilevelEngineConfig(train_iters=3), graph).run()
    assert torch.equal(before, flat(upper.trainable_parameters())) == bool(told)
    assert len(caplog.records) == told


def test_a_direct_partial_is_a_gradient(caplog):
    two_levels(NoHypergradient(), steps=2)[0].run()
    assert not caplog.records
