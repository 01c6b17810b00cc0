"""Every parameter belongs to one level, or the engine is not made."""

import pytest
import torch
from torch import nn

from bilevel import (
    BilevelEngine,
    BilevelEngineConfig,
    LowerProblem,
    ProblemConfig,
    UpperProblem,
    UserError,
)
from bilevel.hypergradient import Unrolled
from tests.bilevel.toys import STRICT

pytestmark = STRICT


class Holder(nn.Module):
    def __init__(self, **parameters):
        super().__init__()
        for name, parameter in parameters.items():
            self.register_parameter(name, parameter)


def number(n=3):
    return nn.Parameter(torch.ones(n, dtype=torch.float64))


class Below(LowerProblem):
    def training_step(self, batch):
        return sum(p.square().sum() for p in self.module.parameters())


class Above(UpperProblem):
    def training_step(self, batch):
        return sum(p.square().sum() for p in self.lower.module.parameters())


def problem(cls, name, module, owned=None, **config):
    owned = list(module.parameters()) if owned is None else owned
    return cls(
        name,
        ProblemConfig(**config),
        module=module,
        optimizer=torch.optim.SGD(owned, lr=0.1),
        train_data_loader=[torch.zeros(())],
    )


def engine(lower, upper, *others):
    return BilevelEngine(
        [lower, upper, *others],
        BilevelEngineConfig(train_iters=1, strategy="cpu"),
        {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}},
    )


def two(lower_module, upper_module, lower_owned=None, upper_owned=None):
    lower = problem(Below, "lower", lower_module, lower_owned, hypergradient=Unrolled())
    return engine(lower, problem(Above, "upper", upper_module, upper_owned))


def test_two_levels_cannot_own_one_parameter():
    shared = number()
    with pytest.raises(UserError, match=r"'lower' and 'upper' both own shared"):
        two(Holder(own=number(), shared=shared), Holder(gate=number(), shared=shared))


def test_nor_by_the_optimizer_alone():
    """The upper level's optimiser was given all of the model."""
    model, gate = Holder(w=number(), bias=number()), number()
    with pytest.raises(UserError, match=r"both own w, bias"):
        two(model, Holder(gate=gate), upper_owned=[gate, *model.parameters()])


def test_a_tied_parameter_has_one_owner():
    tied = number()
    lower = Holder(embedding=tied, head=tied)
    two(lower, Holder(gate=number()))  # twice in one module is one parameter
    with pytest.raises(UserError, match=r"both own (embedding|head|out)"):
        two(lower, Holder(out=tied))


@pytest.mark.parametrize("part", [slice(None), slice(1, None)])
def test_nor_can_they_own_the_same_memory(part):
    w = number()
    with pytest.raises(UserError, match="both own"):
        two(Holder(w=w), Holder(view=nn.Parameter(w.detach()[part])))


def test_parts_of_one_buffer_are_apart():
    """As in a flat buffer that a model's parameters lie in one after another, or in columns."""
    flat = torch.ones(4, 4, dtype=torch.float64)
    two(Holder(w=nn.Parameter(flat[:2])), Holder(gate=nn.Parameter(flat[2:])))
    two(Holder(w=nn.Parameter(flat[:, :2])), Holder(gate=nn.Parameter(flat[:, 2:])))


def test_two_problems_of_one_level_cannot_either():
    shared = number()
    lower = problem(Below, "lower", Holder(w=shared), hypergradient=Unrolled())
    upper = problem(Above, "upper", Holder(gate=number()))
    with pytest.raises(UserError, match="'lower' and 'other' both own"):
        engine(lower, upper, problem(Below, "other", Holder(w=shared, v=number())))


def test_frozen_parameters_are_shared_by_all():
    base = nn.Parameter(torch.ones(3), requires_grad=False)
    two(Holder(w=number(), base=base), Holder(gate=number(), base=base))


def test_a_parameter_is_given_to_an_optimizer_once():
    w = number()
    with (
        pytest.warns(UserWarning, match="duplicate parameters"),
        pytest.raises(UserError, match=r"'lower' holds a parameter twice.*: w"),
    ):
        two(Holder(w=w), Holder(gate=number()), lower_owned=[w, w])


def test_names_are_given_once():
    lower = problem(Below, "level", Holder(w=number()), hypergradient=Unrolled())
    with pytest.raises(UserError, match="two problems are named 'level'"):
        engine(lower, problem(Above, "level", Holder(gate=number())))


def test_a_long_list_is_cut():
    parts = {f"p{i}": number() for i in range(9)}
    with pytest.raises(UserError, match="p4 and 4 more"):
        two(Holder(**parts), Holder(**parts))
