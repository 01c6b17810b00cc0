"""Stock Betty loses optimisers, groups and frozen parameters; ours keeps them."""

import pytest
import torch

from bilevel.hypergradient import NoHypergradient, Unrolled
from tests.bilevel.stock import stock_levels
from tests.bilevel.toys import (
    STRICT,
    two_levels,
)

pytestmark = STRICT

SGD, AdamW = torch.optim.SGD, torch.optim.AdamW


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
    ours.roll_back.save(ours)
    sizes = [p.numel() for p in ours.trainable_parameters()]
    assert [t.numel() for t in ours.roll_back.saved["parameters"]] == sizes
