"""`nystrom` against the Hessian written out in full, and against `cg` on a convex problem."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from bilevel import ProblemConfig
from bilevel.errors import UserError
from bilevel.hypergradient import ConjugateGradient, Nystrom
from tests.bilevel.hypergradient.test_neumann_cg import DIM, exact, ridge, total_gradient
from tests.bilevel.toys import STRICT, Spy, flat, relative_error, two_levels

pytestmark = STRICT


def hessian_and_gradient(lower):
    """H written out, and dL1/dV as a graph, on the latest batch."""
    weights = lower.trainable_parameters()
    loss = lower.objective(lower.cur_batch)
    grads = torch.autograd.grad(loss, weights, create_graph=True)
    gradient = torch.cat([g.flatten() for g in grads])
    columns = [torch.autograd.grad(g, weights, retain_graph=True) for g in gradient]
    return torch.stack([flat(column) for column in columns]), gradient


@pytest.mark.parametrize("damping", [0.3, 1e-3])
def test_solves_with_the_hessian(damping):
    """With as many directions as weights, for an indefinite H; and it moves none of the run's
    draws."""
    errors = []

    def look(vector, lower, upper, found):
        before = torch.get_rng_state()
        again = spy.inner.implicit_term(vector, lower, upper)
        assert torch.equal(flat(again), flat(found))
        assert torch.equal(torch.get_rng_state(), before)
        hessian, gradient = hessian_and_gradient(lower)
        damped = hessian + damping * torch.eye(len(hessian), dtype=hessian.dtype)
        solution = torch.linalg.solve(damped, flat(vector))
        mixed = torch.autograd.grad(gradient @ solution, upper.trainable_parameters())
        errors.append(relative_error(flat(found), -flat(mixed)))

    spy = Spy(Nystrom(rank=35, damping=damping), look)
    engine, *_ = two_levels(spy, steps=3)
    engine.run()
    assert len(errors) == 3
    assert max(errors) < 1e-6


def test_few_directions_are_the_formula():
    """Against C W^-1 C^T + rho I, written out and solved."""
    errors = []

    def look(vector, lower, upper, found):
        hessian, gradient = hessian_and_gradient(lower)
        draw = torch.Generator().manual_seed(lower.count)
        R = torch.randn(35, 4, generator=draw, dtype=torch.float64)
        R = torch.linalg.qr(R).Q
        C = hessian @ R
        approximation = C @ torch.linalg.inv(R.T @ C) @ C.T
        damped = approximation + 0.1 * torch.eye(35, dtype=torch.float64)
        solution = torch.linalg.solve(damped, flat(vector))
        mixed = torch.autograd.grad(gradient @ solution, upper.trainable_parameters())
        errors.append(relative_error(flat(found), -flat(mixed)))

    engine, *_ = two_levels(Spy(Nystrom(rank=4, damping=0.1), look), steps=2)
    engine.run()
    assert max(errors) < 1e-7


def test_equals_cg_on_a_ridge_problem():
    """Of full rank; more directions than weights change nothing."""
    found = {}
    for estimator in (
        Nystrom(rank=DIM, damping=0.2),
        Nystrom(rank=99, damping=0.2),
        ConjugateGradient(iterations=DIM, damping=0.2),
    ):
        engine, _, upper, hessian, mixed, v = ridge(ProblemConfig(hypergradient=estimator))
        found[estimator] = total_gradient(engine, upper)
        damped = hessian + 0.2 * torch.eye(DIM, dtype=torch.float64)
        assert relative_error(found[estimator], exact(damped, mixed, v)) < 1e-10


def test_central_difference_products():
    found = []
    for product in ("double_backward", "central_difference"):
        given = dataclasses.replace(Nystrom(rank=DIM), product=product, epsilon=1e-3)
        engine, _, upper, *_ = ridge(ProblemConfig(hypergradient=given))
        found.append(total_gradient(engine, upper))
    assert relative_error(found[1], found[0]) < 1e-6


def test_options_are_checked():
    with pytest.raises(UserError, match=r"Nystrom\.rank=0"):
        Nystrom(rank=0)
    with pytest.raises(UserError, match=r"Nystrom\.damping=0"):
        Nystrom(damping=0)


@pytest.mark.parametrize("top", [1.0, 100.0])
def test_in_fp32_it_is_as_exact_as_products_in_fp32_are(top):
    """A Hessian of rank 20 with eigenvalues top * 10^0 .. 10^-5, within its range to 1e-2: with the
    small system in fp32 too, whose eigenvalues are those squared, it was off by up to 0.65."""
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(60, 60, dtype=torch.float64)).Q
    values = torch.zeros(60, dtype=torch.float64)
    values[:20] = top * torch.logspace(0, -5, 20, dtype=torch.float64)
    hessian = basis @ torch.diag(values) @ basis.T
    v = torch.randn(60)
    found = Nystrom(rank=30, damping=0.01).inverse(
        lambda parts: [hessian.float() @ parts[0]], [v], SimpleNamespace(count=1), None
    )
    assert found[0].dtype == torch.float32
    damped = hessian + 0.01 * torch.eye(60, dtype=torch.float64)
    exact = torch.linalg.solve(damped, v.double())
    seen = basis[:, :20].T
    assert relative_error(seen @ found[0].double(), seen @ exact) < 1e-2
