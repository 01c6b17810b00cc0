"""Stock Betty loses optimisers, groups and frozen parameters; ours keeps them."""

import warnings

import pytest
import torch
from betty.configs import Config, EngineConfig
from betty.engine import Engine
from betty.problems import ImplicitProblem
from toys import (
    STRICT,
    Gate,
    Lower,
    Net,
    Upper,
    dataset,
    stack,
    two_levels,
)

from bilevel.hypergradient import NoHypergradient, Unrolled

pytestmark = STRICT

SGD, AdamW = torch.optim.SGD, torch.optim.AdamW


class StockLower(ImplicitProblem):
    training_step = Lower.training_step


class StockUpper(ImplicitProblem):
    training_step = Upper.training_step


def stock_levels(
    optimizer=lambda p: SGD(p, lr=0.1),
    upper_optimizer=lambda p: SGD(p, lr=0.0),
    steps=1,
    dropout=0.0,
    module=None,
    classes=(StockLower, StockUpper),
    engine_options=None,
    unroll_steps=1,
    dtype=torch.float64,
    precision="fp32",
    engine_class=Engine,
    scheduler=None,
    frozen=False,
):
    """The same two levels as ``two_levels``, of Betty's own classes.

    Stock Betty cannot take a step with a frozen parameter, so it becomes a buffer unless wanted.
    """
    torch.manual_seed(0)
    net, gate = (Net(dropout) if module is None else module).to(dtype), Gate().to(dtype)
    if not frozen:
        net.register_buffer("frozen", net._parameters.pop("frozen").detach())

    def batches(seed):
        x, y = stack(dataset(64, seed))
        return [(x[i : i + 8].to(dtype), y[i : i + 8]) for i in range(0, 64, 8)]

    optim = optimizer([p for p in net.parameters() if p.requires_grad])
    lower = classes[0](
        "lower",
        Config(unroll_steps=unroll_steps, precision=precision),
        module=net,
        optimizer=optim,
        scheduler=None if scheduler is None else scheduler(optim),
        train_data_loader=batches(1),
    )
    upper = classes[1](
        "upper",
        Config(precision=precision, retain_graph=True),  # it goes through its graph twice
        module=gate,
        optimizer=upper_optimizer(gate.parameters()),
        train_data_loader=batches(2),
    )
    engine = engine_class(
        [lower, upper],
        EngineConfig(
            **{
                "train_iters": steps,
                "valid_step": 10**6,
                "strategy": "cpu",
                **(engine_options or {}),
            }
        ),
        {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}},
    )
    return engine, lower, upper


def run_quietly(engine):
    """Run stock Betty where it makes torch warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine.run()


def test_adamw_is_not_rebuilt():
    with pytest.raises(TypeError, match="decoupled_weight_decay"):
        stock_levels(lambda p: AdamW(p, lr=0.1))
    given = []
    engine, lower, _ = two_levels(
        NoHypergradient(), optimizer=lambda p: given.append(AdamW(p, lr=0.1)) or given[0]
    )
    assert lower.optimizer is given[0]
    engine.run()


def test_parameter_groups_and_momenta_are_kept():
    def groups(p):
        return SGD([{"params": p[:1], "lr": 0.5, "weight_decay": 0.1}, {"params": p[1:]}], lr=0.01)

    _, stock, _ = stock_levels(groups)
    assert [g["lr"] for g in stock.optimizer.param_groups] == [0.01]
    assert [g["weight_decay"] for g in stock.optimizer.param_groups] == [0]
    _, ours, _ = two_levels(NoHypergradient(), optimizer=groups)
    assert [g["lr"] for g in ours.optimizer.param_groups] == [0.5, 0.01]
    assert [g["weight_decay"] for g in ours.optimizer.param_groups] == [0.1, 0]
    assert [len(g["params"]) for g in ours.optimizer.param_groups] == [1, 1]


def test_a_scheduler_goes_on_driving_the_optimiser_in_use():
    """Betty builds a second one from the constructor's names; many schedulers have others."""

    def warm(optimizer):
        return torch.optim.lr_scheduler.SequentialLR(
            optimizer,
            [
                torch.optim.lr_scheduler.ConstantLR(optimizer, 0.5, total_iters=2),
                torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9),
            ],
            milestones=[2],
        )

    with pytest.raises(AttributeError):
        stock_levels(scheduler=warm)
    engine, lower, _ = two_levels(NoHypergradient(), scheduler=warm, steps=3)
    engine.run()
    assert lower.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.9)


def test_a_frozen_backbone_is_not_trained():
    engine, stock, _ = stock_levels(lambda p: SGD(p, lr=0.1), frozen=True)
    frozen = stock.module.frozen
    with pytest.raises(RuntimeError, match="requires_grad=False"):
        engine.run()
    assert any(p is frozen for p in stock.trainable_parameters())
    assert any(p is frozen for g in stock.optimizer.param_groups for p in g["params"])
    engine, ours, _ = two_levels(Unrolled(), steps=3)
    before = ours.module.frozen.detach().clone()
    assert all(p is not ours.module.frozen for p in ours.trainable_parameters())
    engine.run()
    assert torch.equal(ours.module.frozen, before)
    assert ours.module.frozen.grad is None


def test_a_roll_back_copies_no_backbone():
    _, stock, _ = stock_levels(engine_options={"roll_back": True})
    stock.cache_states()
    assert "frozen" in stock.module_state_dict_cache
    _, ours, _ = two_levels(NoHypergradient(), engine_options={"roll_back": True})
    ours.cache_states()
    sizes = [p.numel() for p in ours.trainable_parameters()]
    assert [t.numel() for t in ours.module_state_dict_cache["parameters"]] == sizes
