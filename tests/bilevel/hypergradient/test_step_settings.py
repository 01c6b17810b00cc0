"""Rates and decays of the optimiser as upper variables: what steps do, and dPhi/dE, in float64."""

import pytest
import torch
from torch import nn

from bilevel import UserError
from bilevel.hypergradient import NoHypergradient, Unrolled, check
from bilevel.hypergradient.registry import registered
from bilevel.nests import clone_nested
from bilevel.step_settings import StepSettings
from tests.bilevel.toys import (
    STRICT,
    Lower,
    Upper,
    brute_force,
    flat,
    relative_error,
    two_levels,
    upper_gradient,
)

pytestmark = STRICT


def by_group(kind, **options):
    return lambda p: kind([{"params": p[:1]}, {"params": p[1:], "lr": 0.03}], **options)


OPTIMISERS = {
    "momentum": by_group(torch.optim.SGD, lr=0.1, momentum=0.9),
    "nesterov": by_group(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    "adam": by_group(torch.optim.Adam, lr=0.05),
    "adamw": by_group(torch.optim.AdamW, lr=0.05, weight_decay=0.3),
}


class Set(Lower):
    """E decides factors of both groups' rates and the first group's decay, and the gates too."""

    def step_settings(self):
        raw = self.upper.module.logits
        decay = torch.exp(raw[1] - 1)
        return [StepSettings(torch.exp(raw[0]), decay), StepSettings(torch.exp(raw[2]))]


class SetAlone(Set):
    """The same, and no loss depends on E."""

    def training_step(self, batch):
        x, y = batch
        return nn.functional.cross_entropy(self.module(x, torch.ones(5, dtype=x.dtype)), y)


class Blind(Upper):
    def training_step(self, batch):
        x, y = batch
        return nn.functional.cross_entropy(self.lower(x, torch.ones(5, dtype=x.dtype)), y)


LOSSES = {"in the loss too": (Set, Upper), "in Phi alone": (SetAlone, Blind)}


@pytest.mark.parametrize("classes", LOSSES)
@pytest.mark.parametrize("T1", [1, 4])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_equals_difference_of_the_whole_run(name, T1, classes):
    """In the second of two windows, within 1e-7 of a central difference of torch's own steps."""
    options = {
        "optimizer": OPTIMISERS[name],
        "classes": LOSSES[classes],
        "unroll_steps": T1,
        "dropout": 0.3,
        "steps": 2,
    }
    found = upper_gradient(*two_levels(Unrolled(), **options)[::2])
    expected = brute_force(lambda: two_levels(NoHypergradient(), **options), before=1)
    assert relative_error(found, expected) < 1e-7
    assert found.abs().min() > 0 or classes == "in Phi alone"
    assert found[:3].abs().min() > 0


@pytest.mark.parametrize(
    "more",
    [
        {"upper_steps": 2},
        {"clipping": 0.1},
        {"gas": 3},
        {"scheduler": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.7)},
    ],
    ids=lambda more: next(iter(more)),
)
def test_equals_it_whatever_the_run_does(more):
    """Two upper steps in a row, clipping, accumulation, a schedule: within 1e-7."""
    options = {"optimizer": OPTIMISERS["adamw"], "classes": LOSSES["in the loss too"]}
    options |= {"unroll_steps": 4, "dropout": 0.3, "steps": 2, **more}
    found = upper_gradient(*two_levels(Unrolled(), **options)[::2])
    expected = brute_force(lambda: two_levels(NoHypergradient(), **options), before=1)
    assert relative_error(found, expected) < 1e-7


def test_a_kept_graph_gives_the_same():
    options = {"optimizer": OPTIMISERS["adamw"], "classes": LOSSES["in the loss too"], "steps": 2}
    kept, again = (
        upper_gradient(*two_levels(Unrolled(keep_graph=keep), **options)[::2])
        for keep in (True, False)
    )
    assert relative_error(kept, again) < 1e-12


@pytest.mark.parametrize("name", OPTIMISERS)
def test_the_steps_are_those_of_an_optimiser_set_so(name):
    """Bit for bit, with a schedule; the groups keep their own rates."""

    def schedule(optimizer):
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    options = {"unroll_steps": 3, "steps": 2, "scheduler": schedule}
    engine, lower, upper = two_levels(
        NoHypergradient(), OPTIMISERS[name], classes=(Set, Upper), **options
    )
    raw = upper.module.logits.detach()
    engine.run()

    def set_so(params):
        optimizer = OPTIMISERS[name](params)
        first, second = optimizer.param_groups
        first["lr"] *= float(torch.exp(raw[0]))
        second["lr"] *= float(torch.exp(raw[2]))
        first["weight_decay"] = float(torch.exp(raw[1] - 1))
        return optimizer

    stock, other, _ = two_levels(NoHypergradient(), set_so, **options)
    stock.run()
    assert torch.equal(flat(lower.trainable_parameters()), flat(other.trainable_parameters()))
    rates = [group["lr"] for group in lower.optimizer.param_groups]
    assert rates == [group["initial_lr"] * 0.5**6 for group in lower.optimizer.param_groups]


@pytest.mark.parametrize("name", OPTIMISERS)
def test_steps_with_tensors_are_the_same_as_with_numbers(name, monkeypatch):
    """What an accelerator is not waited for: weights, upper variables, state and term to 1e-12."""

    def outcome():
        options = {"unroll_steps": 3, "steps": 2, "clipping": 0.1, "dropout": 0.3}
        engine, lower, upper = two_levels(
            Unrolled(),
            OPTIMISERS[name],
            lambda p: torch.optim.SGD(p, lr=0.5),
            classes=(Set, Upper),
            **options,
        )
        engine.run()
        states = lower.optimizer.state_dict()["state"].values()
        numbers = [x for state in states for x in state.values() if x is not None]
        assert lower.optimizer.param_groups[1]["lr"] == 0.03
        every = [*lower.trainable_parameters(), *upper.trainable_parameters(), *numbers]
        return torch.cat([x.detach().double().flatten() for x in every])

    read = outcome()
    for where in ("bilevel.step_settings", "bilevel.replay.recorder"):
        monkeypatch.setattr(f"{where}.reads_settings", lambda level: False)
    monkeypatch.setattr(torch.Tensor, "tolist", None)  # nothing is read
    assert relative_error(outcome(), read) < 1e-12


def test_no_warning_of_a_step_that_was_taken_with_tensors(monkeypatch):
    """torch's schedulers warn of an optimizer.step() that never came; warnings are errors here."""
    for where in ("bilevel.step_settings", "bilevel.replay.recorder"):
        monkeypatch.setattr(f"{where}.reads_settings", lambda level: False)

    def schedule(optimizer):
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    options = {"classes": (Set, Upper), "scheduler": schedule, "steps": 2}
    engine, lower, _ = two_levels(NoHypergradient(), OPTIMISERS["momentum"], **options)
    engine.run()
    assert lower.optimizer.param_groups[1]["lr"] == 0.03 * 0.25


def test_a_factor_of_the_loss_does_nothing_under_adam():
    """Which is why a rate must stand in the update map: 1e-7 of its influence there."""

    class Factor(SetAlone):
        def training_step(self, batch):
            return torch.exp(self.upper.module.logits[0]) * super().training_step(batch)

        def step_settings(self):
            return ()

    def influence(kind):
        adam = by_group(torch.optim.Adam, lr=0.05, eps=1e-12)
        engine, _, upper = two_levels(Unrolled(), adam, classes=(kind, Blind), unroll_steps=4)
        return upper_gradient(engine, upper)[0].abs()

    assert influence(Factor) < 1e-7 * influence(SetAlone)


def test_resumed_is_the_same_to_the_bit():
    def build(steps):
        return two_levels(
            Unrolled(),
            OPTIMISERS["adamw"],
            lambda p: torch.optim.Adam(p, lr=0.1),
            classes=(Set, Upper),
            unroll_steps=3,
            dropout=0.3,
            steps=steps,
        )

    whole, lower, upper = build(4)
    whole.run()
    first, *_ = build(2)
    first.run()
    state = clone_nested(first.state_dict())  # before the next one draws its weights
    second, again, above = build(4)
    second.load_state_dict(state)
    second.run()
    assert torch.equal(flat(lower.trainable_parameters()), flat(again.trainable_parameters()))
    assert torch.equal(upper.module.logits, above.module.logits)


@pytest.mark.parametrize(
    "name", ["finite_difference", "sama", "cg", "soba", "penalty", "betty_darts"]
)
def test_others_are_refused(name):
    with pytest.raises(UserError, match=rf"hypergradient={name}.*unrolled"):
        two_levels(registered(name)(), OPTIMISERS["adamw"], classes=(Set, Upper))


def test_others_are_refused_by_the_check_too():
    engine, *_ = two_levels(Unrolled(), OPTIMISERS["adamw"], classes=(Set, Upper))
    with pytest.raises(UserError, match="hypergradient=sama"):
        check(engine, [registered("sama")()])


def test_a_setting_for_each_group():
    class Short(Set):
        def step_settings(self):
            return super().step_settings()[:1]

    engine, *_ = two_levels(NoHypergradient(), OPTIMISERS["adamw"], classes=(Short, Upper))
    with pytest.raises(UserError, match=r"step_settings.* 1 .*2 param groups"):
        engine.run()
