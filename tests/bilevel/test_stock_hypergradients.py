"""Stock Betty's hypergradients are wrong or noisy; ours are right."""

import pytest
import torch
from betty.problems import IterativeProblem
from torch import nn

from bilevel.hypergradient import FiniteDifference, NoHypergradient, Unrolled
from tests.bilevel.stock import StockLower, StockUpper, stock_levels
from tests.bilevel.toys import (
    STRICT,
    Net,
    brute_force,
    relative_error,
    two_levels,
    upper_gradient,
)

pytestmark = STRICT

SGD, AdamW = torch.optim.SGD, torch.optim.AdamW


def test_dropout_masks_are_replayed():
    """The estimator's passes see one function; Betty's see two (numbers in test_finite_difference,
    on eight batches of a transformer)."""
    seen = {"stock": [], "ours": []}

    class Watching(Net):
        key = None

        def forward(self, x, gate):
            hidden = self.dropout(torch.ones(64, 5))
            if self.key:
                seen[self.key].append(hidden)
            return super().forward(x, gate)

    torch.manual_seed(0)
    net = Watching(0.5)
    engine, *_ = stock_levels(module=net)
    net.key = "stock"
    engine.run()
    plus, minus = seen["stock"][-2:]
    assert len(seen["stock"]) == 4  # lower, upper, w + eps v, w - eps v
    assert not torch.equal(plus, minus)

    engine, ours, _ = two_levels(
        FiniteDifference(difference="central"), optimizer=lambda p: SGD(p, lr=0.1)
    )
    watching = Watching(0.5)
    ours.module.__class__ = Watching
    ours.module.dropout = watching.dropout
    ours.module.key = "ours"
    engine.run()
    lower, _, plus, minus = seen["ours"]
    assert torch.equal(plus, minus)
    assert torch.equal(plus, lower)


def test_the_term_of_all_unrolled_steps_is_computed():
    """T1 = 8 steps of SGD: Betty differentiates the last batch only, without the learning rate."""
    errors = {}
    options = {"unroll_steps": 8, "optimizer": lambda p: SGD(p, lr=0.3)}
    exact = brute_force(lambda: two_levels(NoHypergradient(), **options))
    direct = upper_gradient(*two_levels(NoHypergradient(), **options)[::2])
    for name, given in (
        ("ours", {"hypergradient": Unrolled()}),
        ("stock", {"hypergradient": None, "lower_options": {"type": "darts"}}),
    ):
        found = upper_gradient(*two_levels(**given, **options)[::2])
        errors[name] = relative_error(found - direct, exact - direct)
    print(f"relative error of the implicit term at T1 = 8: {errors}")
    assert errors["ours"] < 1e-6
    assert errors["stock"] > 0.2


def test_upper_steps_t2():
    def count(levels):
        engine, lower, upper = levels
        order = []
        for problem in (lower, upper):
            problem.optimizer.register_step_post_hook(
                lambda *a, name=problem.name: order.append(name)
            )
        engine.run()
        return order

    engine, lower, upper = stock_levels(steps=2)
    upper.config.steps = 3  # no such setting
    assert count((engine, lower, upper)) == ["lower", "upper"] * 2
    ours = count(two_levels(NoHypergradient(), upper_steps=3, steps=2))
    assert ours == ["lower", "upper", "upper", "upper"] * 2


def test_weights_do_not_drift():
    """With a learning rate of 0, a thousand upper steps must leave the lower weights alone."""

    def drift(engine, lower, before):
        engine.run()
        return max(
            float((p.detach().float() - b.float()).abs().max())
            for p, b in zip(lower.trainable_parameters(), before, strict=True)
        )

    found = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        engine, lower, _ = stock_levels(lambda p: SGD(p, lr=0.0), steps=1000, dtype=dtype)
        before = [p.detach().clone() for p in lower.trainable_parameters()]
        found[name] = drift(engine, lower, before)
        engine, lower, _ = two_levels(
            FiniteDifference(difference="central"),
            optimizer=lambda p: SGD(p, lr=0.0),
            steps=100,
            dtype=dtype,
        )
        before = [p.detach().clone() for p in lower.trainable_parameters()]
        assert drift(engine, lower, before) == 0.0
    print(f"drift of stock Betty's weights after 1,000 upper steps: {found}")
    assert found["fp32"] > 1e-6
    assert found["bf16"] > 1e-2


def test_the_trainable_parameters_are_differentiated_in_cg():
    """Betty's cg multiplies the Hessian of all parameters; a frozen one is an error there."""
    from betty.hypergradient.cg import cg

    class Frozen(StockLower):
        def trainable_parameters(self):
            return [self.module.A, self.module.B]

    _, lower, upper = stock_levels(classes=(Frozen, StockUpper), frozen=True)
    lower.cur_batch = lower.get_batch()
    vector = [torch.ones_like(p) for p in lower.trainable_parameters()]
    with pytest.raises(RuntimeError):
        cg(vector, lower, upper, sync=False)


def test_iterative_problem_is_dead():
    """Betty's way to unroll exactly cannot take a step; ``unrolled`` can."""

    class Iterative(IterativeProblem):
        def training_step(self, batch):
            x, y = batch
            return nn.functional.cross_entropy(
                self.fmodule(self.params, self.buffers, x, self.upper.module()), y
            )

    with pytest.raises((AttributeError, KeyError, TypeError)):
        stock_levels(classes=(Iterative, StockUpper))[0].run()
    assert torch.isfinite(upper_gradient(*two_levels(Unrolled(), unroll_steps=3)[::2])).all()
