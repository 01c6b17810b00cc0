"""Slips in what an engine is given are told in a sentence that names them, before anything runs."""

import pytest
import torch

from bilevel import BilevelEngine, BilevelEngineConfig, Callback, LowerProblem, UpperProblem
from bilevel.errors import UserError
from bilevel.hypergradient import FiniteDifference, NoHypergradient
from tests.bilevel.graphs import Vector, three_levels, vector_problem
from tests.bilevel.toys import STRICT, Lower, Upper, two_levels

pytestmark = STRICT


class Below(LowerProblem):
    def training_step(self, batch):
        return (self.module.w - self.upper.module.w).square().sum()


class Above(UpperProblem):
    def training_step(self, batch):
        return self.lower.module.w.square().sum()


class Plain(LowerProblem):
    def training_step(self, batch):
        return self.module.w.square().sum()


class Lossless(LowerProblem):
    pass


class PlainUpper(UpperProblem):
    training_step = Plain.training_step


LOWER = vector_problem(Below, "lower", 2, 0)
UPPER = vector_problem(Above, "upper", 2, 1)
OTHER = vector_problem(Plain, "other", 2, 2)
UP, DOWN = {UPPER: [LOWER]}, {LOWER: [UPPER]}

DEPENDENCIES = {
    "no u2l": ({"l2u": DOWN}, r"must be \{'u2l'.*got l2u"),
    "no l2u": ({"u2l": UP}, r"must be \{'u2l'.*got u2l"),
    "a list": ([LOWER, UPPER], "dependencies must be"),
    "no mapping": ({"u2l": [UPPER], "l2u": DOWN}, "'u2l'.*must map problems"),
    "no edge up": ({"u2l": UP, "l2u": {}}, "does not lead from 'lower' up to 'upper'"),
    "a stranger": ({"u2l": {UPPER: [OTHER]}, "l2u": {}}, "'other'.*not among.*lower, upper"),
    "a strange key": ({"u2l": {}, "l2u": {OTHER: [UPPER]}}, r"'l2u'\].*'other'.*not among"),
    "no list": ({"u2l": {UPPER: LOWER}, "l2u": DOWN}, r"write \[lower\] for what upper"),
    "names": ({"u2l": {"upper": ["lower"]}, "l2u": DOWN}, "names 'upper', which is no problem"),
    "a name": ({"u2l": {UPPER: "lower"}, "l2u": DOWN}, "lists of problems"),
    "twice": ({"u2l": UP, "l2u": {LOWER: [UPPER, UPPER]}}, "twice in what 'lower'"),
    "a circle": (
        {"u2l": {}, "l2u": {LOWER: [UPPER], UPPER: [LOWER]}},
        "run in a circle.*from lower, upper",
    ),
    "itself": ({"u2l": {}, "l2u": {LOWER: [LOWER]}}, "run in a circle.*from lower to"),
    "swapped": ({"u2l": DOWN, "l2u": UP}, "'upper' is an UpperProblem.*swapped"),
}


@pytest.mark.parametrize(("dependencies", "words"), DEPENDENCIES.values(), ids=DEPENDENCIES)
def test_dependencies_that_cannot_be(dependencies, words):
    with pytest.raises(UserError, match=words):
        BilevelEngine([LOWER, UPPER], BilevelEngineConfig(train_iters=1), dependencies)


def test_a_middle_level_may_be_an_upper_problem():
    class Middle(UpperProblem):
        def training_step(self, batch):
            return (self.module.w * self.lower.module.w * self.top.module.w).sum()

    class Top(UpperProblem):
        def training_step(self, batch):
            return self.upper.module.w.square().sum()

    lower = vector_problem(Below, "lower", 2, 0, hypergradient=FiniteDifference())
    middle = vector_problem(Middle, "upper", 2, 1, hypergradient=FiniteDifference())
    top = vector_problem(Top, "top", 2, 2)
    graph = {"u2l": {middle: [lower], top: [middle]}, "l2u": {lower: [middle], middle: [top]}}
    before = top.module.w.detach().clone()
    BilevelEngine([lower, middle, top], BilevelEngineConfig(train_iters=1), graph).run()
    assert not torch.equal(top.module.w, before)
    three_levels(FiniteDifference())  # u2l over two levels at once


def built(cls=Plain, name="one", **changes):
    module = Vector(2, 0)
    parts = {
        "module": module,
        "optimizer": torch.optim.SGD(module.parameters(), lr=0.1),
        "train_data_loader": [torch.zeros(())],
    }
    return cls(name, **{**parts, **changes})


def used():
    problem = built()
    BilevelEngine([problem])
    return problem


PROBLEMS = {
    "of another engine": (lambda: [used()], "'one' was given to an engine before"),
    "no list": (built, r"must be a list: \[one\]"),
    "no problem": (lambda: ["one"], "'one' is a str"),
    "no module": (lambda: [built(module=None)], "'one' has no module"),
    "no data": (lambda: [built(train_data_loader=None)], "'one' has no data"),
    "no loss": (lambda: [built(Lossless)], "'one' has no loss.*Lossless"),
}
# What the engine, a problem, or both are made of.
NAMES = ("world", "config", "run", "device", "problems", "loss", "gradient", "scaler", "logger")
PROBLEMS |= {
    name: (lambda name=name: [built(name=name), built()], f"cannot be named '{name}'")
    for name in NAMES
}


@pytest.mark.parametrize(("make", "words"), PROBLEMS.values(), ids=PROBLEMS)
def test_problems_that_cannot_be_trained(make, words):
    with pytest.raises(UserError, match=words):
        BilevelEngine(make())


def test_a_pair_cannot_be_in_two_engines():
    engine, lower, upper = two_levels(NoHypergradient())
    with pytest.raises(UserError, match="'lower' was given to an engine before"):
        BilevelEngine([lower, upper], engine.config, engine.dependencies)


def test_data_and_module_may_come_from_hooks():
    class Hooked(Plain):
        def configure_module(self):
            return Vector(2, 0)

        def configure_optimizer(self):
            return torch.optim.SGD(self.module.parameters(), lr=0.1)

        def get_batch(self):
            return {}

    problem = Hooked("one")
    BilevelEngine([problem], BilevelEngineConfig(train_iters=2)).run()
    assert problem.count == 2


LOSSES = {
    "none": (None, "'lower' returned None"),
    "a vector": (torch.ones(3), r"a tensor of shape \(3,\)"),
    "a dict without": ({"error": torch.ones(())}, "a dict with error"),
    "a number": (0.5, "a float"),
    "a dict of a number": ({"loss": 0.5}, "a dict with loss"),
}


@pytest.mark.parametrize(("returned", "words"), LOSSES.values(), ids=LOSSES)
def test_what_is_no_loss(returned, words):
    class Wrong(Lower):
        def training_step(self, batch):
            return returned

    with pytest.raises(UserError, match=f"{words}.*must return the loss"):
        two_levels(NoHypergradient(), classes=(Wrong, Upper))[0].run()


@pytest.mark.parametrize(
    ("callbacks", "words"),
    [
        ([Callback], r"holds <class.*Callback'>.*call it, Callback\(\)"),
        (Callback(), "must be a list of instances"),
        (Callback, "must be a list of instances"),
        (["guard"], "holds 'guard', which is no instance"),
    ],
)
def test_callbacks_are_a_list_of_instances(callbacks, words):
    with pytest.raises(UserError, match=words):
        two_levels(NoHypergradient(), callbacks=callbacks)
