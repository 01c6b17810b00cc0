"""`penalty`: its steps written out in plain torch, its limit, what it keeps, what it refuses."""

import copy

import pytest
import torch
from torch import nn

from bilevel import ProblemConfig
from bilevel.errors import UserError
from bilevel.hypergradient import FiniteDifference, NoHypergradient, Penalty, check
from bilevel.nests import clone_nested
from tests.bilevel.hypergradient.test_neumann_cg import exact, ridge
from tests.bilevel.text_toys import two_text_levels
from tests.bilevel.toys import STRICT, Lower, Recorder, Upper, flat, relative_error, two_levels

pytestmark = STRICT

SGD, AdamW = torch.optim.SGD, torch.optim.AdamW

RUNS = {
    "sgd": (lambda p: SGD(p, lr=0.3, momentum=0.5), 0.0),
    "adamw": (lambda p: AdamW(p, lr=0.05, weight_decay=0.1), 0.0),
    "clipping": (lambda p: AdamW(p, lr=0.05, betas=(0.5, 0.6)), 0.1),
}


def by_hand(optimizer, clipping, multiplier, windows, unroll_steps, eta=None):
    """w, u and the logits of the gate after some windows, by torch.optim and backward alone."""
    _, lower, upper = two_levels(NoHypergradient())
    w, gate = lower.module, upper.module
    D_train, D_val = (iter(level.train_data_loader[0]) for level in (lower, upper))

    def owned(net):
        return [p for p in net.parameters() if p.requires_grad]

    def loss(net, batch):
        x, y = batch
        return nn.functional.cross_entropy(net(x, gate()), y)

    step_w, step_E = optimizer(owned(w)), SGD(gate.parameters(), lr=0.5)
    u = step_u = v = direct = None
    multipliers = []
    for _ in range(windows):
        for _ in range(unroll_steps):
            batch = next(D_train)
            *at_w, h_w = torch.autograd.grad(loss(w, batch), [*owned(w), gate.logits])
            if u is None:
                pull = at_w
            else:
                *at_u, h_u = torch.autograd.grad(loss(u, batch), [*owned(u), gate.logits])
                if eta is not None:
                    f, q = flat([*v, direct]), flat([*at_w, h_w - h_u])
                    multiplier = max(float(eta - f @ q / (q @ q)), 0.0)
                    multipliers.append(multiplier)
                pull = [
                    (a + multiplier * b) / (1 + multiplier) for a, b in zip(v, at_w, strict=True)
                ]
            for net, grads, step in ((w, pull, step_w), (u, u and at_u, step_u)):
                if net is None:
                    continue
                for p, g in zip(owned(net), grads, strict=True):
                    p.grad = g
                if clipping:
                    nn.utils.clip_grad_norm_(owned(net), clipping)
                step.step()
        *v, direct = torch.autograd.grad(loss(w, next(D_val)), [*owned(w), gate.logits])
        gate.logits.grad = direct if u is None else direct + multiplier * (h_w - h_u)
        step_E.step()
        if u is None:
            u = copy.deepcopy(w)
            step_u = optimizer(owned(u))
            step_u.load_state_dict(copy.deepcopy(step_w.state_dict()))  # or they share
    return flat(owned(w)), flat(owned(u)), gate.logits.detach(), multipliers


@pytest.mark.parametrize("unroll_steps", [1, 3])
@pytest.mark.parametrize("run", RUNS)
def test_equals_the_method_written_out(run, unroll_steps):
    optimizer, clipping = RUNS[run]
    engine, lower, upper = two_levels(
        Penalty(multiplier=3.0),
        optimizer=optimizer,
        clipping=clipping,
        upper_optimizer=lambda p: SGD(p, lr=0.5),
        unroll_steps=unroll_steps,
        steps=2,
    )
    engine.run()
    *expected, _ = by_hand(optimizer, clipping, 3.0, 2, unroll_steps)
    second = lower.estimator_state["penalty"]["second"]
    found = (lower.trainable_parameters(), second, upper.trainable_parameters())
    for a, b in zip(found, expected, strict=True):
        assert relative_error(flat(a), b) < 1e-12
    assert relative_error(flat(second), flat(lower.trainable_parameters())) > 1e-3


@pytest.mark.parametrize("run", RUNS)
def test_bomes_multiplier_written_out(run):
    """Where it is above 0 and where it is 0: w, u and the gate to 1e-12, and what is learned."""
    optimizer, clipping = RUNS[run]
    for eta, zeros in ((0.02, True), (3.0, False)):
        engine, lower, upper = two_levels(
            Penalty(eta=eta),
            optimizer=optimizer,
            clipping=clipping,
            upper_optimizer=lambda p: SGD(p, lr=0.5),
            unroll_steps=2,
            steps=4,
        )
        engine.run()
        *expected, multipliers = by_hand(optimizer, clipping, None, 4, 2, eta)
        assert any(m == 0 for m in multipliers) == zeros, multipliers
        assert any(m > 0 for m in multipliers)
        second = lower.estimator_state["penalty"]["second"]
        found = (lower.trainable_parameters(), second, upper.trainable_parameters())
        for a, b in zip(found, expected, strict=True):
            assert relative_error(flat(a), b) < 1e-12


def test_the_limit_is_the_implicit_functions_term():
    """On a ridge problem whose minima are reached: 0.315 / lambda off the closed form."""
    for multiplier in (10.0, 100.0, 1e4):
        config = ProblemConfig(hypergradient=Penalty(multiplier=multiplier), unroll_steps=20)
        engine, lower, upper, hessian, *_ = ridge(config)
        lower.optimizer.param_groups[0]["lr"] = 0.1
        engine.train_iters = 160
        found = []
        upper.grad_callback = lambda m=upper.module, seen=found: seen.append(m.w.grad.clone())
        engine.run()
        x, y = lower.train_data_loader[0][0]
        with torch.no_grad():
            w = torch.linalg.solve(hessian, 2 * x.T @ y / len(x))
            v = 2 * x.T @ (x @ w - y) / len(x)
            expected = exact(hessian, 2 * upper.module.w.exp() * w, v)
        assert relative_error(found[-1], expected) == pytest.approx(0.315 / multiplier, rel=0.03)


def test_a_warm_up_is_plain_training():
    ends = []
    for estimator in (Penalty(), NoHypergradient()):
        engine, lower, _ = two_levels(
            estimator,
            optimizer=lambda p: AdamW(p, lr=0.05),
            dropout=0.3,
            steps=5,
            lower_options={"warmup_steps": 5},
        )
        engine.run()
        assert lower.estimator_state == {}
        ends.append(flat(lower.trainable_parameters()))
    assert torch.equal(*ends)


def test_both_copies_see_the_same_masks():
    """Where w and u are equal, so are the brackets, dropout or not."""
    engine, lower, _ = two_levels(Penalty(), dropout=0.5, steps=2)
    engine.run()
    (difference,) = lower.recorded.carried["upper"]
    assert float(difference.abs().max()) < 1e-12


def test_upper_steps_change_nothing_of_what_is_carried():
    """Clipping works in place on p.grad, which without a direct partial is the term alone."""

    class Blind(Upper):
        def training_step(self, batch):
            x, y = batch
            return nn.functional.cross_entropy(self.lower(x, torch.ones(5, dtype=x.dtype)), y)

    engine, lower, upper = two_levels(
        Penalty(),
        classes=(Lower, Blind),
        unroll_steps=2,
        upper_steps=2,
        upper_options={"gradient_clipping": 1e-4},
        steps=2,
    )
    recorder = Recorder(upper)
    engine.run()
    first, second = (flat(grads) for grads in recorder.grads[2:])
    assert float(first.norm()) > 1e-4
    assert torch.equal(second, first)
    assert torch.equal(flat(lower.recorded.carried["upper"]), first)


def test_only_the_adapter_is_copied_and_nothing_is_differentiated_twice():
    engine, lower, _ = two_text_levels(Penalty(), attention="sdpa", steps=3)
    engine.run()
    assert not lower.recorder.needs.double_backward  # flash kernels may be used
    second = lower.estimator_state["penalty"]["second"]
    assert [u.shape for u in second] == [p.shape for p in lower.trainable_parameters()]
    frozen = sum(p.numel() for p in lower.module.parameters() if not p.requires_grad)
    assert sum(u.numel() for u in second) < frozen


def test_an_overflow_is_not_remembered():
    """fp16: neither in v nor in u."""
    engine, lower, upper = two_levels(Penalty(), steps=2)
    engine.run()
    before = clone_nested(lower.estimator_state["penalty"])
    v = [x * torch.inf for x in before["vector"]]
    Penalty().implicit_term(v, lower, upper)
    assert torch.equal(flat(lower.estimator_state["penalty"]["vector"]), flat(before["vector"]))


def test_the_check_gives_it_steps_of_its_own():
    """The others are measured as without it, and the engine goes on as if unchecked."""
    options = {"optimizer": lambda p: AdamW(p, lr=0.05), "dropout": 0.3, "steps": 6}

    def run(estimators):
        engine, lower, upper = two_levels(
            Penalty(), upper_optimizer=lambda p: SGD(p, lr=0.5), **options
        )
        engine.train_iters = 3
        engine.run()
        results = check(engine, estimators, batches=3) if estimators else []
        engine.train_iters = 6
        engine.run()
        end = flat([*lower.trainable_parameters(), *upper.trainable_parameters()])
        return {r.name: r for r in results[-len(estimators) :]}, end

    alone, _ = run([FiniteDifference()])
    both, end = run([Penalty(), FiniteDifference(), Penalty(multiplier=20.0)])
    _, unchecked = run([])
    other = "finite_difference"
    assert both[other].norm == alone[other].norm
    assert both[other].exact_norm == alone[other].exact_norm
    assert both["penalty"].norm > 0
    assert both["penalty"].norm != both["penalty(multiplier=20.0)"].norm
    assert torch.equal(end, unchecked)


def test_a_roll_back_is_refused():
    with pytest.raises(UserError, match=r"penalty.*roll_back"):
        two_levels(Penalty(), engine_options={"roll_back": True})


def test_steps_that_a_copy_cannot_follow_are_refused():
    with pytest.raises(UserError, match=r"RMSprop"):
        two_levels(Penalty(), optimizer=lambda p: torch.optim.RMSprop(p, lr=0.1))
