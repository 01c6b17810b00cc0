"""The functional optimisers take the steps of torch.optim."""

from dataclasses import replace

import pytest
import torch

from bilevel.hypergradient.optimizers import clone_together, functional_step, snapshot, step_vjp
from tests.bilevel.optimizer_cases import (
    CASES,
    build,
    make_params,
    random_like,
    torch_step,
    warmed_up,
)


@pytest.mark.parametrize("max_norm", [0.0, 0.7, 100.0])
@pytest.mark.parametrize("case", CASES)
def test_steps_equal_torch_optim(case, max_norm):
    params = make_params()
    optimizer = build(case, params)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7)
    for step in range(5):
        before = [p.detach().clone() for p in params]
        taken = snapshot(optimizer, params)
        grads = random_like(params, 100 + step)
        torch_step(optimizer, params, grads, max_norm)
        new_params, new_state = functional_step(taken, before, grads, max_norm)
        for i, param in enumerate(params):
            torch.testing.assert_close(new_params[i], param.detach(), rtol=1e-12, atol=1e-14)
            for name, value in optimizer.state[param].items():
                expected = torch.as_tensor(value, dtype=torch.float64)
                got = torch.as_tensor(new_state[i][name], dtype=torch.float64)
                torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)
        scheduler.step()


@pytest.mark.parametrize("case", CASES)
def test_chained_functional_steps_equal_torch_optim(case):
    """Going on from the returned state, instead of from a new snapshot."""
    params = make_params()
    optimizer = build(case, params)
    taken = snapshot(optimizer, params)
    values = clone_together(params)
    for step in range(4):
        grads = random_like(params, 200 + step)
        values, state = functional_step(taken, values, grads)
        taken = replace(taken, state=state)
        torch_step(optimizer, params, grads)
    for value, param in zip(values, params, strict=True):
        torch.testing.assert_close(value, param.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("case", ["sgd-nesterov", "adamw", "adam-amsgrad"])
def test_parameter_without_gradient_is_left_alone(case):
    params, optimizer = warmed_up(case, 2)
    taken, before = snapshot(optimizer, params), clone_together(params)
    grads = random_like(params, 5)
    grads[1] = None
    torch_step(optimizer, params, grads, 0.5)
    new_params, new_state = functional_step(taken, before, grads, 0.5)
    assert torch.equal(new_params[1], before[1])
    assert new_state[1] == taken.state[1]
    for value, param in zip(new_params, params, strict=True):
        torch.testing.assert_close(value, param.detach(), rtol=1e-12, atol=1e-14)

    names = [k for k in taken.state[1] if k != "step"]
    adjoint = [{k: torch.ones_like(p) for k in names} for p in params]
    ones = [torch.ones_like(p) for p in params]
    adj_params, adj_grads, adj_state = step_vjp(taken, before, grads, ones, adjoint, 0.5)
    assert torch.equal(adj_params[1], ones[1])
    assert adj_grads[1] is None
    assert all(torch.equal(adj_state[1][k], ones[1]) for k in names)
    assert adj_grads[0].abs().max() > 0

    *_, untouched = step_vjp(taken, before, [None] * 4, ones, adjoint)
    assert all(torch.equal(untouched[2][k], ones[2]) for k in names)


def test_parameters_with_different_step_counts():
    """A parameter that got its first gradient late has its own bias correction."""
    params = make_params()
    optimizer = build("adamw", params)
    torch_step(optimizer, params, [None, *random_like(params, 1)[1:]])
    taken, before, grads = (
        snapshot(optimizer, params),
        clone_together(params),
        random_like(params, 2),
    )
    torch_step(optimizer, params, grads)
    new_params, new_state = functional_step(taken, before, grads)
    assert [s["step"] for s in new_state] == [1.0, 2.0, 2.0, 2.0]
    for value, param in zip(new_params, params, strict=True):
        torch.testing.assert_close(value, param.detach(), rtol=1e-12, atol=1e-14)


def test_snapshot_is_a_copy():
    params, optimizer = warmed_up("adamw", 2)
    taken = snapshot(optimizer, params)
    kept = [s["exp_avg"].clone() for s in taken.state]
    torch_step(optimizer, params, random_like(params, 3))
    optimizer.param_groups[0]["lr"] = 7.0
    assert all(torch.equal(k, s["exp_avg"]) for k, s in zip(kept, taken.state, strict=True))
    assert taken.hypers[0].lr == 0.05
    assert taken.state[0]["step"] == 2.0


def test_step_count_on_a_device_needs_no_reading():
    """A 0-d tensor step (as a fused optimiser keeps on an accelerator) gives the same numbers."""
    params, optimizer = warmed_up("adamw", 3)
    taken, values, grads = (
        snapshot(optimizer, params),
        clone_together(params),
        random_like(params, 9),
    )
    state = [{**s, "step": torch.tensor(s["step"], dtype=torch.float64)} for s in taken.state]
    on_device = replace(taken, state=state)
    expected, _ = functional_step(taken, values, grads)
    got, new_state = functional_step(on_device, values, grads)
    assert new_state[0]["step"].item() == 4.0
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
