"""Stock Betty's engine lacks what ours has."""

import functools
import importlib.metadata

import pytest
import torch
import torch.distributed as dist
from betty.engine import Engine
from packaging.specifiers import SpecifierSet

from bilevel.hypergradient import FiniteDifference, NoHypergradient, Unrolled
from tests.bilevel.stock import StockLower, StockUpper, run_quietly, stock_levels
from tests.bilevel.toys import (
    STRICT,
    Lower,
    Upper,
    two_levels,
)

pytestmark = STRICT

SGD, AdamW = torch.optim.SGD, torch.optim.AdamW


def validating(scores):
    class Validating(Engine):
        def validation(self):
            return {"loss": scores.pop(0)}

    return Validating


def test_early_stopping():
    options = {"early_stopping": True, "valid_step": 1, "early_stopping_tolerance": 2}
    engine, *_ = stock_levels(
        steps=9, engine_options=options, engine_class=validating([3.0, 2.0, 2.5, 2.6, 0.0])
    )
    with pytest.raises(AttributeError, match="patience"):
        engine.run()
    scores = [3.0, 2.0, 2.5, 2.6, 0.0]
    engine, *_ = two_levels(
        NoHypergradient(),
        steps=9,
        engine_options=options,
        validation=lambda engine: {"loss": scores.pop(0)},
    )
    engine.run()
    assert engine.global_step == 4


def test_distributed_and_accelerate_on_cpus(monkeypatch):
    """Ours on two processes: test_engine_distributed."""
    monkeypatch.setattr(dist, "init_process_group", lambda backend: None)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ZeroDivisionError):
        stock_levels(engine_options={"strategy": "distributed", "backend": "gloo"})
    with pytest.raises(AttributeError, match="accelerator"):
        stock_levels(engine_options={"strategy": "accelerate"})


def test_bf16_on_the_cpu():
    class Typed:
        def training_step(self, batch):
            loss = super().training_step(batch)
            self.seen = self.module.A.dtype, (self.module.A @ self.module.A.T).dtype
            return loss

    class StockTyped(Typed, StockLower):
        pass

    class OurTyped(Typed, Lower):
        pass

    engine, stock, _ = stock_levels(
        classes=(StockTyped, StockUpper), precision="bf16", dtype=torch.float32
    )
    run_quietly(engine)
    assert stock.seen == (torch.float32, torch.float32)  # autocast of another device
    engine, ours, _ = two_levels(
        FiniteDifference(),
        classes=(OurTyped, Upper),
        lower_options={"precision": "bf16"},
        upper_options={"precision": "bf16"},
        dtype=torch.float32,
    )
    engine.run()
    assert ours.seen == (torch.float32, torch.bfloat16)


def counting_reads(monkeypatch):
    reads = []
    for name in ("item", "tolist", "__float__", "__int__", "__bool__", "numpy"):
        original = getattr(torch.Tensor, name)

        @functools.wraps(original)
        def read(self, *args, original=original, name=name, **kwargs):
            reads.append(name)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, read)
    return reads


@pytest.mark.parametrize(
    "estimator",
    [
        NoHypergradient(),
        FiniteDifference(difference="central"),
        FiniteDifference(difference="forward"),
        Unrolled(),
        Unrolled(keep_graph=False),
    ],
    ids=repr,
)
def test_nothing_is_read_from_the_device_in_a_step(estimator, monkeypatch):
    """On an accelerator each such read waits for the device. SGD, since Adam reads its step count
    on CPUs, where that is free."""
    reads = counting_reads(monkeypatch)
    stock = stock_levels(steps=5)[0]
    reads.clear()
    stock.run()
    assert reads.count("item") >= 3 * 5  # two losses and the norm of v, each step
    engine, *_ = two_levels(
        estimator, optimizer=lambda p: SGD(p, lr=0.1, momentum=0.9), steps=5, unroll_steps=1
    )
    reads.clear()
    engine.run()
    assert reads == []


def test_an_engine_has_a_state():
    engine, *_ = stock_levels()
    assert not hasattr(engine, "state_dict")
    engine, lower, _ = two_levels(Unrolled(), steps=3)
    engine.run()
    assert engine.state_dict()["global_step"] == 3
    # Betty's problem state holds the backbone and no position in the data; ours the reverse.
    stock = stock_levels()[1].state_dict()
    assert "frozen" in stock["module"]
    assert set(stock) == {"module", "optimizer"}
    ours = lower.state_dict()
    assert len(ours["parameters"]) == 2
    assert ours["count"] == 3
    assert ours["loaders"][0]["position"] == 3


def test_gradient_accumulation_steps_the_scheduler_by_optimiser_steps():
    """Betty steps it at every micro-batch."""
    rates = {}
    for name, levels in (("stock", stock_levels), ("ours", None)):

        def decay(optimizer):
            return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

        if levels is None:
            engine, lower, _ = two_levels(NoHypergradient(), gas=4, scheduler=decay)
            engine.run()
        else:
            engine, lower, _ = levels(scheduler=decay, steps=4)
            lower.gas = 4
            run_quietly(engine)
        rates[name] = lower.optimizer.param_groups[0]["lr"] / 0.1
    assert rates["stock"] == pytest.approx(0.5**4)
    assert rates["ours"] == pytest.approx(0.5)


def test_a_roll_back_redoes_the_whole_accumulated_step():
    """Betty redoes it on the last micro-batch, at 1/gas of its gradient."""
    moves = {}
    for name in ("stock", "ours"):
        if name == "stock":
            engine, lower, _ = stock_levels(steps=2, engine_options={"roll_back": True})
            lower.gas = 2
        else:
            engine, lower, _ = two_levels(
                NoHypergradient(), gas=2, engine_options={"roll_back": True}
            )
        sizes = []
        original = lower.get_loss

        def spy(batch, original=original, sizes=sizes):
            sizes.append(len(batch[1]))
            return original(batch)

        lower.get_loss = spy
        engine.run()
        moves[name] = sum(sizes)
    assert moves["stock"] == 8 * 2 + 8  # two micro-batches, and one again
    assert moves["ours"] == 8 * 2 + 8 * 2


def test_bettys_metadata_excludes_this_python():
    """Hence `pip install --no-deps --ignore-requires-python`."""
    requires = importlib.metadata.metadata("betty-ml")["Requires-Python"]
    assert "3.11.0" not in SpecifierSet(requires)
