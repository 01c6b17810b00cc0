"""The guard against losses and gradients that are not finite."""

import math
import os

import pytest
import torch
from torch import nn

from bilevel import (
    BilevelEngine,
    BilevelEngineConfig,
    ProblemConfig,
    ResumableLoader,
    UserError,
)
from bilevel.callbacks import (
    CheckpointEvery,
    NonFiniteError,
    NonFiniteGuard,
)
from bilevel.checkpoint.folder import Checkpointer
from bilevel.distributed import World
from tests.bilevel.watched import Lower, build


def poisoned(index, value):
    data = list(torch.randn(16, 3, generator=torch.Generator().manual_seed(1)))
    data[index] = torch.full((3,), value)
    return data


def batches_of_first_epoch(data, seed):
    loader = ResumableLoader(data, 4, torch.stack, seed=seed)
    return [loader.last_indices for _ in loader]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_guard_names_step_problem_batch_and_checkpoint(tmp_path, value):
    data = poisoned(5, value)
    lower_batches, upper_batches = (batches_of_first_epoch(data, seed) for seed in (3, 4))
    lower_step, upper_step = (
        next(i for i, batch in enumerate(batches, 1) if 5 in batch)
        for batches in (lower_batches, upper_batches)
    )
    first_is_lower = lower_step <= upper_step
    step = min(lower_step, upper_step)
    batch = (lower_batches if first_is_lower else upper_batches)[step - 1]

    keeper = Checkpointer(tmp_path, keep=5)
    keeper.save("warm", 1, {})
    callbacks = [NonFiniteGuard(checkpointer=keeper), CheckpointEvery(keeper, 1, "search")]
    engine = build(6, callbacks, data=data)
    with pytest.raises(NonFiniteError) as caught:
        engine.run()
    message = str(caught.value)
    name = "inner" if first_is_lower else "upper"
    assert f"the loss of problem {name!r} is not finite at global step {step} " in message
    assert f"examples {', '.join(map(str, batch))})" in message
    newest = keeper.paths()[-1]
    assert f"last good checkpoint: {newest}" in message
    assert len(keeper.paths()) == step  # "warm", and steps before the bad one
    # Caught before the optimiser step: the weights are those of the last good step.
    assert all(torch.isfinite(p).all() for p in engine.inner.trainable_parameters())


def test_guard_sees_a_gradient_that_is_not_finite():
    class Steep(Lower):
        def training_step(self, batch):
            weight = self.module.weight
            return (weight - weight.detach()).abs().sqrt().sum()  # 0, with an infinite slope

    module = nn.Linear(3, 1)
    problem = Steep(
        "steep",
        ProblemConfig(),
        module=module,
        optimizer=torch.optim.SGD(module.parameters(), lr=0.1),
        train_data_loader=ResumableLoader(list(torch.randn(8, 3)), 4, torch.stack),
    )
    config = BilevelEngineConfig(train_iters=2, strategy="cpu")
    with pytest.raises(NonFiniteError, match=r"the gradient of problem 'steep' .*global step 1 "):
        BilevelEngine([problem], config, callbacks=[NonFiniteGuard()]).run()


class FakeProblem:
    """As much of a problem as the guard looks at; the loss says it is on another device."""

    scaler = None

    def __init__(self, name="p", grad=1.0):
        self.name, self.count, self.last_indices = name, 0, None
        self.parameter = nn.Parameter(torch.ones(2))
        self.parameter.grad = torch.full((2,), grad)

    def trainable_parameters(self):
        return [self.parameter]


class FakeEngine:
    world = World()

    def __init__(self):
        self.global_step = 0

    def agree_to_stop(self):
        pass


class Elsewhere(torch.Tensor):
    """A CPU tensor that claims to be on an accelerator, where values must not be read."""

    reads = 0

    @property
    def device(self):
        return torch.device("meta")

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in (torch.Tensor.item, torch.Tensor.__bool__, torch.Tensor.__int__):
            cls.reads += 1
        if func is torch.Tensor.to:
            return args[0]
        return super().__torch_function__(func, types, args, kwargs or {})


def elsewhere(value):
    return torch.tensor(value).as_subclass(Elsewhere)


def test_guard_reads_an_accelerator_only_now_and_then(monkeypatch):
    """Bad in step 3, read after step 5: the message still names step 3 and its batch."""
    monkeypatch.setattr(torch.nn.utils, "get_total_norm", lambda grads, _: elsewhere(1.0))
    guard, engine = NonFiniteGuard(every=5), FakeEngine()
    problems = [FakeProblem("inner"), FakeProblem("upper")]
    guard.on_start(engine)
    Elsewhere.reads = 0

    def run():
        for step in range(1, 7):
            engine.global_step = step
            for problem in problems:
                problem.count += 1
                problem.last_indices = [10 * step, 10 * step + 1]
                bad = step >= 3 and problem.name == "upper"
                guard.on_gradient(problem, elsewhere(math.nan if bad else 1.0))
                assert Elsewhere.reads == 0
            guard.on_step_end(engine)

    with pytest.raises(NonFiniteError) as caught:
        run()
    assert engine.global_step == 5
    assert Elsewhere.reads == 1
    assert "problem 'upper' is not finite at global step 3 (local step 3" in str(caught.value)
    assert "examples 30, 31)" in str(caught.value)


def test_guard_is_read_before_a_checkpoint_and_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.nn.utils, "get_total_norm", lambda grads, _: elsewhere(1.0))
    guard, engine = NonFiniteGuard(every=1000), FakeEngine()
    saver = CheckpointEvery(Checkpointer(tmp_path), every=2)
    engine.callbacks, engine.train_iters, engine.stop_reason = [guard, saver], 10, None
    guard.on_start(engine)
    guard.on_gradient(FakeProblem(), elsewhere(math.inf))
    engine.global_step = 1
    saver.on_step_end(engine)
    guard.on_step_end(engine)
    engine.global_step = 2
    with pytest.raises(NonFiniteError):
        saver.on_step_end(engine)
    assert os.listdir(tmp_path) == []
    guard.on_gradient(FakeProblem(), elsewhere(math.inf))
    with pytest.raises(NonFiniteError):
        guard.on_end(engine)


def test_guard_leaves_large_and_scaled_gradients_alone():
    guard, problem = NonFiniteGuard(), FakeProblem(grad=3e38)  # finite, its square is not
    guard.on_gradient(problem, torch.tensor(1.0))
    problem.parameter.grad[0] = math.inf
    problem.scaler = object()  # fp16: the scaler skips such a step
    guard.on_gradient(problem, torch.tensor(1.0))
    problem.parameter.grad = torch.tensor([0.0, math.inf]).to_sparse()
    guard.on_gradient(problem, torch.tensor(1.0))
    problem.scaler = None
    with pytest.raises(NonFiniteError, match=r"gradient .*batch unknown"):
        guard.on_gradient(problem, torch.tensor(1.0))
    with pytest.raises(UserError, match="every=0"):
        NonFiniteGuard(every=0)


def test_guard_shortens_huge_batches():
    guard, problem = NonFiniteGuard(), FakeProblem()
    problem.last_indices = list(range(1000))
    with pytest.raises(NonFiniteError, match="62, 63 and 936 more"):
        guard.on_gradient(problem, torch.tensor(math.nan))
