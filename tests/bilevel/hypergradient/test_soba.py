"""`soba` on a strongly convex quadratic, against its series, `cg`, a closed form; its memory."""

import pytest
import torch

from bilevel import ProblemConfig
from bilevel.errors import UserError
from bilevel.hypergradient import ConjugateGradient, NoHypergradient, Soba, check
from bilevel.nests import clone_nested
from tests.bilevel.hypergradient.test_neumann_cg import (
    DIM,
    StockLower,
    StockUpper,
    exact,
    ridge,
)
from tests.bilevel.toys import STRICT, flat, relative_error, two_levels

pytestmark = STRICT


def gradients(estimator, steps, lower_lr=0.0, upper_lr=0.0):
    """Every upper gradient of a run on the ridge problem, with the exact one at its weights."""
    engine, lower, upper, *_ = ridge(ProblemConfig(hypergradient=estimator))
    engine.train_iters = steps
    lower.optimizer.param_groups[0]["lr"] = lower_lr
    upper.optimizer.param_groups[0]["lr"] = upper_lr
    x, y = lower.train_data_loader[0][0]
    found, expected = [], []

    def look():
        with torch.no_grad():
            w, E = lower.module.w, upper.module.w
            hessian = 2 * x.T @ x / len(x) + 2 * torch.diag(E.exp())
            v = 2 * x.T @ (x @ w - y) / len(x)
            expected.append(exact(hessian, 2 * E.exp() * w, v))
        found.append(upper.module.w.grad.clone())

    upper.grad_callback = look
    engine.run()
    return found, expected


@pytest.mark.parametrize("damping", [0.0, 0.7])
def test_the_kth_step_is_the_series(damping):
    """Where nothing moves, z_k = rho sum_j<k (I - rho (H + mu I))^j v."""
    rate, steps = 0.1, 7
    found, _ = gradients(Soba(rate=rate, damping=damping), steps)
    *_, hessian, mixed, v = ridge(ProblemConfig(hypergradient=NoHypergradient()))
    eye = torch.eye(DIM, dtype=torch.float64)
    shrink = eye - rate * (hessian + damping * eye)
    for k in range(1, steps + 1):
        z = rate * sum(torch.linalg.matrix_power(shrink, j) for j in range(k)) @ v
        assert relative_error(found[k - 1], -mixed * z) < 1e-12


def test_converges_to_cg():
    found, _ = gradients(Soba(rate=0.15), 200)
    solved, expected = gradients(ConjugateGradient(iterations=DIM), 1)
    assert relative_error(found[-1], solved[0]) < 1e-9
    assert relative_error(solved[0], expected[0]) < 1e-9


def test_follows_a_solution_that_moves_closer_than_cg():
    """Both levels train: one product a step leaves less error than cg's four."""

    def error(estimator):
        found, expected = gradients(estimator, 120, lower_lr=0.05, upper_lr=0.02)
        pairs = list(zip(found, expected, strict=True))[60:]
        return sum(relative_error(a, b) for a, b in pairs) / len(pairs)

    assert error(Soba(rate=0.15)) < error(ConjugateGradient(iterations=4)) < 1e-2


def test_every_upper_level_has_a_z_of_its_own():
    _, lower, upper = two_levels(Soba())
    v = [torch.randn_like(p) for p in lower.trainable_parameters()]
    lower.take_lower_steps()
    memory = {upper.name: [torch.ones_like(x) for x in v], "other": [torch.zeros(1)]}
    lower.estimator_state["soba"] = memory
    Soba().implicit_term(v, lower, upper)
    assert lower.estimator_state["soba"]["other"] is memory["other"]
    assert torch.equal(memory[upper.name][0], torch.ones_like(v[0]))  # nothing is changed in place


def test_an_overflow_is_not_remembered():
    """fp16: v is infinite once. The answer shows it, and the next z is as if it had not been."""
    _, lower, upper = two_levels(Soba())
    lower.take_lower_steps()
    v = [torch.randn_like(p) for p in lower.trainable_parameters()]
    Soba().implicit_term(v, lower, upper)
    before = clone_nested(lower.estimator_state)
    answer = Soba().implicit_term([x * torch.inf for x in v], lower, upper)
    assert not torch.isfinite(flat(answer)).all()
    held = lower.estimator_state["soba"][upper.name]
    assert torch.equal(flat(held), flat(before["soba"][upper.name]))


def test_the_check_goes_on_from_the_runs_z():
    """And leaves it where it was."""
    engine, lower, _ = two_levels(Soba(rate=0.5), steps=5)
    engine.run()
    before = clone_nested(lower.estimator_state)
    (warm,) = (r.norm for r in check(engine, [Soba(rate=0.5)]))
    lower_state = lower.estimator_state["soba"]["upper"]
    assert torch.equal(flat(lower_state), flat(before["soba"]["upper"]))
    lower.estimator_state = {}
    (cold,) = (r.norm for r in check(engine, [Soba(rate=0.5)]))
    assert warm > 1.2 * cold


def test_a_problem_of_bettys_has_no_memory():
    engine, *_ = ridge(ProblemConfig(hypergradient=Soba()), (StockLower, StockUpper))
    with pytest.raises(UserError, match=r"soba.*'lower' is a StockLower.*LowerProblem"):
        engine.run()
