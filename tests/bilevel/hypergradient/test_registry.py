"""Estimators in Betty's own mapping, chosen by name or object; names that do not exist."""

import dataclasses
import subprocess
import sys

import pytest
import torch
from betty.configs import Config
from betty.hypergradient import jvp_fn_mapping
from betty.hypergradient.darts import darts

from bilevel import ProblemConfig, hypergradient
from bilevel.errors import UserError
from bilevel.hypergradient import (
    Alignment,
    BettyDarts,
    ConjugateGradient,
    FiniteDifference,
    Forward,
    Hypergradient,
    Neumann,
    NoHypergradient,
    Sama,
    Unrolled,
    estimator_of,
    register,
)
from tests.bilevel.toys import STRICT, Lower, Upper, relative_error, two_levels, upper_gradient

pytestmark = STRICT

ALL = [
    found
    for name in hypergradient.__all__
    if isinstance(found := getattr(hypergradient, name), type)
    and issubclass(found, Hypergradient)
    and found.name
]


def test_all_are_in_bettys_mapping():
    names = {cls.name for cls in ALL}
    assert len(names) == len(ALL)
    assert names < set(jvp_fn_mapping)
    assert jvp_fn_mapping["darts"] is darts  # Betty's own stays reachable


@pytest.mark.parametrize("cls", ALL)
def test_a_name_gives_default_options(cls):
    found = estimator_of(Config(type=cls.name))
    assert type(found) is cls
    if cls not in (Neumann, ConjugateGradient):
        assert found == cls()


@pytest.mark.parametrize(
    "cls", [FiniteDifference, Unrolled, Forward, Neumann, ConjugateGradient, Sama]
)
@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan")])
def test_a_perturbation_must_have_a_length(cls, epsilon):
    with pytest.raises(UserError, match=rf"{cls.__name__}\.epsilon=.*more than 0"):
        cls(epsilon=epsilon)


def test_bettys_fields_are_options():
    config = Config(type="neumann", neumann_iterations=7, neumann_alpha=0.3)
    assert estimator_of(config) == Neumann(iterations=7, alpha=0.3)
    config = Config(type="cg", cg_iterations=9, cg_alpha=2.0)
    assert estimator_of(config) == ConjugateGradient(iterations=9)
    assert estimator_of(Config(type="darts")) is None


def test_an_object_sets_the_type():
    config = ProblemConfig(hypergradient=Unrolled(depth=2))
    assert config.type == "unrolled"
    assert estimator_of(config) == Unrolled(depth=2)


def test_a_level_of_ours_does_not_fall_into_stock_darts_by_default():
    _, lower, _ = two_levels(None)
    assert lower.hypergradient == Unrolled()


def test_name_and_object_do_the_same():
    found = [
        upper_gradient(*two_levels(given, dropout=0.3, lower_options=options)[::2])
        for given, options in ((Unrolled(), {}), (None, {"type": "unrolled"}))
    ]
    assert torch.equal(*found)


def test_stock_darts_can_still_be_named():
    gradient = upper_gradient(*two_levels(None, lower_options={"type": "darts"})[::2])
    ours = FiniteDifference(point="after", difference="central")
    assert relative_error(gradient, upper_gradient(*two_levels(ours)[::2])) < 1e-6


def test_an_unknown_name_is_said_before_training():
    with pytest.raises(UserError, match=r"'dart'.*allowed: .*finite_difference.*unrolled"):
        two_levels(None, lower_options={"type": "dart"})


def test_bettys_reinforce_is_refused_and_not_offered():
    with pytest.raises(
        UserError, match=r"'reinforce', which Betty has not finished; allowed: "
    ) as e:
        two_levels(None, lower_options={"type": "reinforce"})
    assert "reinforce" not in str(e.value).partition("allowed")[2]


def test_conjugate_gradients_take_a_step():
    """Without one the implicit term would be zero; of a series, the first term is left."""
    with pytest.raises(UserError, match=r"ConjugateGradient\.iterations=0.*1 or more"):
        ConjugateGradient(iterations=0)
    with pytest.raises(UserError, match=r"ConjugateGradient\.iterations=0"):
        two_levels(None, lower_options={"type": "cg", "cg_iterations": 0})
    assert Neumann(iterations=0).iterations == 0


def test_alignment_needs_gates():
    with pytest.raises(UserError, match=r"gated LoRA layers.*'lower'.*finite_difference"):
        two_levels(Alignment())


def test_an_estimator_of_ones_own_can_be_named():
    """Also one that is registered after the built-in ones."""

    @register
    @dataclasses.dataclass(frozen=True)
    class Doubled(NoHypergradient):
        name = "doubled"
        factor: float = 2.0

    assert estimator_of(Config(type="doubled")) == Doubled()
    assert two_levels(None, lower_options={"type": "doubled"})[1].hypergradient == Doubled()
    del jvp_fn_mapping["doubled"]


def test_a_wrong_option_is_told_without_torch():
    source = """
import sys
from bilevel import UserError
from bilevel.hypergradient import {names}
heavy = lambda: {{"torch", "betty.hypergradient", "peft", "transformers"}} & set(sys.modules)
assert not heavy(), heavy()
try:
    Unrolled(depth=-1)
except UserError as error:
    assert "Unrolled.depth=-1" in str(error)
else:
    raise AssertionError
assert not heavy(), heavy()
"""
    names = ", ".join(cls.__name__ for cls in [*ALL, BettyDarts, Hypergradient])
    source = source.format(names=names)
    subprocess.run([sys.executable, "-c", source], check=True)


def test_registering_needs_a_name():
    with pytest.raises(TypeError, match="name"):
        register(type("Nameless", (Hypergradient,), {}))


def test_none_is_plain_alternation():
    """The direct partial alone; the lower level is not even asked for a gradient."""
    engine, lower, upper = two_levels(NoHypergradient(), classes=(Lower, Upper), dropout=0.3)
    asked = []
    lower.meta_trainable_parameters = lambda: asked.append(1)
    state = torch.get_rng_state()
    found = upper_gradient(engine, upper)
    assert not asked
    torch.set_rng_state(state)
    engine, lower, upper = two_levels(NoHypergradient(), dropout=0.3)
    torch.set_rng_state(state)
    lower.one_step_descent()
    lower.zero_grad()
    (direct,) = torch.autograd.grad(upper.loss(upper.get_batch()), upper.module.logits)
    assert relative_error(found, direct) < 1e-12
