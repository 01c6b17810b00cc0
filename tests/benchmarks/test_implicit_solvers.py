"""The benchmark of implicit estimators: its closed form, and what it says of the exact one."""

import pytest
import torch

from benchmarks.implicit_solvers import DIM, errors, implicit_gradient, problem
from bilevel.hypergradient import ConjugateGradient, NoHypergradient


def test_the_closed_form_is_the_derivative_of_the_minimum() -> None:
    """Central differences of L2 at L1's minimum, in float64."""
    _, lower, upper = problem(NoHypergradient(), 1, 1, 0.0)
    (x, y), (x_val, y_val) = lower.train_data_loader[0][0], upper.train_data_loader[0][0]
    E = upper.module.w.detach()

    def value(at: torch.Tensor) -> torch.Tensor:
        hessian = 2 * x.T @ x / len(x) + 2 * torch.diag(at.exp())
        w = torch.linalg.solve(hessian, 2 * x.T @ y / len(x))
        return (x_val @ w - y_val).pow(2).mean()

    step = 1e-5 * torch.eye(DIM, dtype=torch.float64)
    expected = torch.stack([(value(E + d) - value(E - d)) / 2e-5 for d in step])
    torch.testing.assert_close(
        implicit_gradient(lower, upper, solved=True), expected, rtol=1e-6, atol=1e-9
    )


def test_enough_iterations_of_cg_have_no_error_and_none_has_all() -> None:
    exact = errors(ConjugateGradient(iterations=DIM), 1, 3, 0.05, solved=False)
    assert exact == pytest.approx([0.0] * 3, abs=1e-6)
    few = errors(ConjugateGradient(iterations=1), 1, 3, 0.05, solved=False)
    assert min(few) > 0.1
