"""`neumann` and `cg` against a ridge problem whose implicit derivative is known in closed form.

L1(w, E) = |X w - y|^2 / n + sum_i exp(E_i) w_i^2,  so  H = 2 X^T X / n + 2 diag(exp E)  and
d2L1/dw_i dE_i = 2 exp(E_i) w_i;  (dw*/dE)^T v = - 2 exp(E) w (H^-1 v), elementwise.
"""

import dataclasses

import pytest
import torch
from betty.configs import Config
from betty.engine import Engine
from betty.hypergradient.cg import cg as stock_cg
from betty.problems import ImplicitProblem
from torch import nn

from bilevel import LowerProblem, ProblemConfig, UpperProblem
from bilevel.errors import UserError
from bilevel.hypergradient import ConjugateGradient, FiniteDifference, Neumann
from tests.bilevel.text_toys import mixed_product, two_text_levels
from tests.bilevel.toys import STRICT, Spy, flat, relative_error, two_levels

pytestmark = STRICT

DIM = 6


class Weights(nn.Module):
    def __init__(self, generator, scale=1.0):
        super().__init__()
        self.w = nn.Parameter(scale * torch.randn(DIM, dtype=torch.float64, generator=generator))


class RidgeLower:
    def training_step(self, batch):
        x, y = batch
        w = self.module.w
        return (x @ w - y).pow(2).mean() + (self.upper.module.w.exp() * w.pow(2)).sum()


class RidgeUpper:
    def training_step(self, batch):
        x, y = batch
        return (x @ self.lower.module.w - y).pow(2).mean()


class OurLower(RidgeLower, LowerProblem):
    pass


class OurUpper(RidgeUpper, UpperProblem):
    pass


class StockLower(RidgeLower, ImplicitProblem):
    pass


class StockUpper(RidgeUpper, ImplicitProblem):
    pass


def ridge(config, classes=(OurLower, OurUpper), upper_config=None):
    """(engine, lower, upper, closed-form H^-1, mixed diagonal): fixed batches, learning rates 0."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, DIM, dtype=torch.float64, generator=generator)
    y = torch.randn(20, dtype=torch.float64, generator=generator)
    lower_module, upper_module = Weights(generator), Weights(generator, 0.5)

    def problem(cls, name, config, module):
        return cls(
            name,
            config,
            module=module,
            optimizer=torch.optim.SGD(module.parameters(), lr=0.0),
            train_data_loader=[(x, y)],
        )

    lower = problem(classes[0], "lower", config, lower_module)
    upper = problem(classes[1], "upper", upper_config or Config(), upper_module)
    from betty.configs import EngineConfig

    engine = Engine(
        [lower, upper],
        EngineConfig(train_iters=1, valid_step=1, strategy="cpu"),
        {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}},
    )
    with torch.no_grad():
        hessian = 2 * x.T @ x / len(x) + 2 * torch.diag(upper_module.w.exp())
        mixed = 2 * upper_module.w.exp() * lower_module.w
        v = 2 * x.T @ (x @ lower_module.w - y) / len(x)
    return engine, lower, upper, hessian, mixed, v


def total_gradient(engine, upper):
    """The upper gradient of one step; the direct partial of this problem is zero."""
    found = []
    upper.grad_callback = lambda: found.append(upper.module.w.grad.clone())
    engine.run()
    return found[0]


def exact(hessian, mixed, v):
    return -mixed * torch.linalg.solve(hessian, v)


@pytest.mark.parametrize("classes", [(OurLower, OurUpper), (StockLower, StockUpper)])
def test_cg_is_exact_after_dim_iterations(classes):
    """Also named by Config(type=...) from plain Betty problems in a plain Betty engine."""
    config = Config(type="cg", cg_iterations=DIM)
    engine, _, upper, *closed = ridge(config, classes)
    assert relative_error(total_gradient(engine, upper), exact(*closed)) < 1e-10


@pytest.mark.parametrize("alpha", [0.01, 7.0])
def test_cg_alpha_has_no_effect_on_a_solution(alpha):
    engine, _, upper, *closed = ridge(Config(type="cg", cg_iterations=DIM, cg_alpha=alpha))
    assert relative_error(total_gradient(engine, upper), exact(*closed)) < 1e-10


@pytest.mark.parametrize(("alpha", "least"), [(1.0, 0.1), (0.5, 0.1), (2.0, 0.1)])
def test_stock_cg_is_wrong(alpha, least):
    """Betty's released routine, on the very same problem."""
    config = Config(type="cg", cg_iterations=DIM, cg_alpha=alpha)
    _, lower, upper, *closed = ridge(config, (StockLower, StockUpper))
    lower.cur_batch = lower.get_batch()
    (found,) = stock_cg([closed[2]], lower, upper, sync=False)
    error = relative_error(found, exact(*closed))
    print(f"stock cg, cg_alpha={alpha}: relative error {error:.3f}")
    assert error > least


def test_damping_solves_the_damped_system():
    estimator = ConjugateGradient(iterations=DIM, damping=0.7)
    engine, _, upper, hessian, mixed, v = ridge(ProblemConfig(hypergradient=estimator))
    damped = hessian + 0.7 * torch.eye(DIM, dtype=torch.float64)
    assert relative_error(total_gradient(engine, upper), exact(damped, mixed, v)) < 1e-10


def test_more_iterations_than_dimensions_change_nothing():
    config = Config(type="cg", cg_iterations=3 * DIM)
    engine, _, upper, *closed = ridge(config)
    assert relative_error(total_gradient(engine, upper), exact(*closed)) < 1e-10


@pytest.mark.parametrize("classes", [(OurLower, OurUpper), (StockLower, StockUpper)])
@pytest.mark.parametrize("k", [0, 1, 5])
def test_neumann_is_its_series(classes, k):
    alpha = 0.1
    config = Config(type="neumann", neumann_iterations=k, neumann_alpha=alpha)
    engine, _, upper, hessian, mixed, v = ridge(config, classes)
    series = sum(
        torch.linalg.matrix_power(torch.eye(DIM, dtype=torch.float64) - alpha * hessian, j) @ v
        for j in range(k + 1)
    )
    found = total_gradient(engine, upper)
    assert relative_error(found, -mixed * alpha * series) < 1e-12


def test_finite_difference_from_plain_betty_problems():
    """Their latest batch is all there is: a central difference, the same as ours."""
    found = []
    for classes in ((OurLower, OurUpper), (StockLower, StockUpper)):
        engine, _, upper, _, mixed, v = ridge(Config(type="finite_difference"), classes)
        found.append(total_gradient(engine, upper))
        assert relative_error(found[-1], -mixed * v) < 1e-2
    assert relative_error(found[1], -mixed * v) < 1e-5


@pytest.mark.parametrize("name", ["unrolled", "sama", "alignment", "betty_darts"])
def test_plain_betty_problems_have_recorded_nothing(name):
    engine, *_ = ridge(Config(type=name), (StockLower, StockUpper))
    with pytest.raises(UserError, match=rf"{name}.*'lower' is a StockLower.*LowerProblem"):
        engine.run()


def test_neumann_converges_to_the_inverse():
    config = Config(type="neumann", neumann_iterations=400, neumann_alpha=0.1)
    engine, _, upper, *closed = ridge(config)
    assert relative_error(total_gradient(engine, upper), exact(*closed)) < 1e-10


@pytest.mark.parametrize(
    "estimator",
    [Neumann(iterations=3, alpha=0.1), ConjugateGradient(iterations=3)],
    ids=["neumann", "cg"],
)
def test_central_difference_products(estimator):
    """The same on a quadratic, where a central difference of gradients has no truncation error."""
    found = []
    for product in ("double_backward", "central_difference"):
        given = dataclasses.replace(estimator, product=product, epsilon=1e-3)
        engine, _, upper, *_ = ridge(ProblemConfig(hypergradient=given))
        found.append(total_gradient(engine, upper))
    assert relative_error(found[1], found[0]) < 1e-7


def test_masks_are_replayed():
    """neumann of no iterations and alpha 1 is the mixed product on the latest batch and masks."""
    errors = []

    def look(vector, lower, upper, answer):
        exact = mixed_product(lower, upper, lower.trainable_parameters(), vector)
        errors.append(relative_error(flat(answer), flat(exact)))
        central = FiniteDifference(difference="central", point="after")
        close = central.implicit_term(vector, lower, upper)
        errors.append(relative_error(flat(close), flat(exact)))

    estimator = Neumann(iterations=0, alpha=1.0)
    engine, *_ = two_text_levels(Spy(estimator, look), steps=3, dtype=torch.float64)
    engine.run()
    assert len(errors) == 6
    assert max(errors[::2]) < 1e-10
    assert max(errors[1::2]) < 1e-3


def test_accumulated_micro_batches_are_one_batch():
    """The Hessian of a step is that of all its micro-batches."""
    v = None
    found = []
    for gas, size in ((1, 8), (2, 4)):
        engine, lower, upper = two_levels(Neumann(iterations=2, alpha=0.5), gas=gas)
        lower.train_data_loader[0].batch_size = size
        lower.train_data_iterator[0] = iter(lower.train_data_loader[0])
        engine.run()
        v = v or [torch.randn_like(p) for p in lower.trainable_parameters()]
        found.append(flat(lower.hypergradient.implicit_term(v, lower, upper)))
    assert relative_error(found[1], found[0]) < 1e-12


def test_no_minimum_along_a_direction_ends_cg():
    """Negative curvature: the iterate before is kept, finite."""
    estimator = ConjugateGradient(iterations=5, damping=-100.0)
    engine, _, upper, *_ = ridge(ProblemConfig(hypergradient=estimator))
    assert torch.equal(total_gradient(engine, upper), torch.zeros(DIM, dtype=torch.float64))


@pytest.mark.parametrize("cls", [Neumann, ConjugateGradient])
def test_options_are_checked(cls):
    with pytest.raises(UserError, match=rf"{cls.__name__}\.iterations=-1"):
        cls(iterations=-1)
    with pytest.raises(UserError, match=r"Neumann\.alpha=0"):
        Neumann(alpha=0)
