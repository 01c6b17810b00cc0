"""The order of a global step, graphs of problems, warm-up, ascent."""

import itertools

import pytest
import torch
from torch import nn

from bilevel import (
    BilevelEngine,
    BilevelEngineConfig,
    LowerProblem,
    ResumableLoader,
)
from bilevel.errors import UserError
from bilevel.hypergradient import FiniteDifference, NoHypergradient, Unrolled
from tests.bilevel.graphs import (
    three_levels,
    two_lowers,
    two_uppers,
)
from tests.bilevel.steps import record_steps
from tests.bilevel.toys import (
    STRICT,
    Recorder,
    brute_force,
    dataset,
    flat,
    relative_error,
    stack,
    two_levels,
    upper_gradient,
)

pytestmark = STRICT

SGD, Adam, AdamW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW


@pytest.mark.parametrize(("T1", "T2"), [(1, 1), (3, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize("gas", [1, 2])
def test_a_global_step_is_lower_steps_then_upper_steps(T1, T2, gas):
    engine, lower, upper = two_levels(
        FiniteDifference(),
        unroll_steps=T1,
        upper_steps=T2,
        gas=gas,
        upper_options={"gradient_accumulation": gas},
        steps=3,
    )
    order = record_steps(lower, upper)
    engine.run()
    assert order == (["lower"] * T1 + ["upper"] * T2) * 3
    assert (lower.count, upper.count) == (3 * T1 * gas, 3 * T2 * gas)


@pytest.mark.parametrize("warmup", [0, 2, 3, 4])
@pytest.mark.parametrize("gas", [1, 2])
def test_warm_up_counts_optimiser_steps_before_the_first_upper_step(warmup, gas):
    engine, lower, upper = two_levels(
        NoHypergradient(),
        unroll_steps=2,
        gas=gas,
        steps=4,
        lower_options={"warmup_steps": warmup},
    )
    order = record_steps(lower, upper)
    engine.run()
    # The first window that ends later than the warm-up is the first with an upper step.
    skipped = warmup // 2
    assert order == ["lower", "lower"] * skipped + ["lower", "lower", "upper"] * (4 - skipped)


def test_upper_ascends_when_it_maximizes():
    losses = {}
    for maximize in (False, True):
        engine, _, upper = two_levels(
            Unrolled(),
            upper_optimizer=lambda p: SGD(p, lr=0.5),
            upper_options={"maximize": maximize},
        )
        start = upper.module.logits.detach().clone()
        engine.run()
        losses[maximize] = upper.module.logits.detach() - start
    assert torch.allclose(losses[True], -losses[False], rtol=1e-12)


def test_three_levels_run_in_order():
    engine, *problems = three_levels(FiniteDifference(), middle_unroll=2, top_steps=2, steps=4)
    order = record_steps(*problems)
    engine.run()
    once = ["bottom", "bottom", "middle"]
    assert order == (once * 2 + ["top", "top"]) * 2


@pytest.mark.parametrize("difference", ["central", "auto"])
def test_three_levels_chain_their_terms(difference):
    """Top's implicit term passes two levels: middle by bottom, then bottom by top. With T2 = 2 the
    second one, too, sees the top's variables as the bottom's steps saw them."""
    estimator = FiniteDifference(difference=difference, point="before", epsilon=1e-5)
    engine, bottom, middle, top = three_levels(estimator, top_steps=2, top_lr=0.5)
    recorder, seen = Recorder(top), []
    top.gradient_hooks.append(lambda p, loss: seen.append(p.module.w.detach().clone()))
    engine.run()

    E0 = seen[0]
    for gradient, E in zip(recorder.grads, seen, strict=True):
        # Leaves: where each mixed derivative is to be taken.
        wb, wm = bottom.recorded.steps[-1].weights[0], middle.recorded.steps[-1].weights[0]
        m_after, b_now = middle.module.w.detach(), bottom.module.w.detach()
        e = E.clone().requires_grad_()
        m = m_after.clone().requires_grad_()
        direct, v = torch.autograd.grad((e * m).pow(2).sum(), [e, m])
        m, b = wm.clone().requires_grad_(), b_now.clone().requires_grad_()
        (g,) = torch.autograd.grad((m * b.exp()).sin().sum(), m, create_graph=True)
        (v,) = torch.autograd.grad(-(g * v).sum(), b)
        b, e = wb.clone().requires_grad_(), E0.clone().requires_grad_()
        # The middle's variables before its step, as the bottom's steps saw them.
        loss = (b - e.sin()).pow(2).sum() / 2 + (b.cos() * wm).sum()
        (g,) = torch.autograd.grad(loss, b, create_graph=True)
        (v,) = torch.autograd.grad(-(g * v).sum(), e)
        assert relative_error(gradient[0], direct + v) < 1e-6
    assert not torch.equal(*seen)


def test_unrolled_says_what_it_cannot_do_on_three_levels():
    engine, *_ = three_levels(Unrolled())
    with pytest.raises(UserError, match=r"unrolled.*finite_difference"):
        engine.run()


def test_two_lower_problems_add_their_terms():
    found = upper_gradient(*two_lowers(Unrolled(), steps=2)[::2])
    expected = brute_force(lambda: two_lowers(NoHypergradient(), steps=2), before=1)
    assert relative_error(found, expected) < 1e-6
    direct = upper_gradient(*two_lowers(NoHypergradient(), steps=2)[::2])
    assert relative_error(direct, expected) > 1e-2


@pytest.mark.parametrize("measured", ["upper", "second"])
def test_two_upper_problems_over_one(measured):
    """Both get exact terms, whichever steps first."""
    found = upper_gradient(*two_uppers(Unrolled(), measured)[::2])
    expected = brute_force(lambda: two_uppers(NoHypergradient(), measured))
    assert relative_error(found, expected) < 1e-6


def test_one_level_is_plain_training():
    torch.manual_seed(0)
    module, reference = (nn.Linear(4, 3, dtype=torch.float64) for _ in range(2))
    reference.load_state_dict(module.state_dict())

    class Alone(LowerProblem):
        def training_step(self, batch):
            return nn.functional.cross_entropy(self.module(batch[0]), batch[1])

    data = ResumableLoader(dataset(32, 0), 8, stack)
    problem = Alone(
        "alone",
        module=module,
        optimizer=AdamW(module.parameters(), lr=0.1),
        train_data_loader=data,
    )
    BilevelEngine([problem], BilevelEngineConfig(train_iters=8)).run()
    optimizer = AdamW(reference.parameters(), lr=0.1)
    again = ResumableLoader(dataset(32, 0), 8, stack)
    for x, y in itertools.islice(itertools.chain(again, again), 8):
        optimizer.zero_grad()
        nn.functional.cross_entropy(reference(x), y).backward()
        optimizer.step()
    assert torch.equal(flat(module.parameters()), flat(reference.parameters()))
