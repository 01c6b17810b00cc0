"""One level: steps, batches, and the parameters it owns."""

import pytest
import torch
import transformers
from torch import nn

from bilevel import (
    ResumableLoader,
)
from bilevel.errors import UserError
from bilevel.hypergradient import (
    FiniteDifference,
    Neumann,
    NoHypergradient,
    Unrolled,
)
from tests.bilevel.levels import alone, classify, linear
from tests.bilevel.text_toys import LowerText, UpperText, two_text_levels
from tests.bilevel.toys import (
    STRICT,
    Lower,
    Upper,
    brute_force,
    dataset,
    flat,
    relative_error,
    stack,
    two_levels,
    upper_gradient,
)

pytestmark = STRICT

SGD, AdamW = torch.optim.SGD, torch.optim.AdamW


@pytest.mark.parametrize("clipping", [0.0, 0.05])
def test_accumulation_equals_the_big_batch(clipping):
    ends = []
    for gas, size in ((1, 12), (3, 4)):
        loader = ResumableLoader(dataset(48, 0), size, stack, shuffle=False)
        options = {"gradient_accumulation": gas, "gradient_clipping": clipping}
        module = linear()
        engine, _ = alone(module, classify, options, loader, steps=4)
        engine.run()
        ends.append(flat(module.parameters()))
    assert torch.allclose(*ends, rtol=1e-12, atol=1e-14)


def test_clipping_is_by_the_global_norm():
    module, reference = linear(), linear()
    engine, _ = alone(module, classify, {"gradient_clipping": 0.05})
    (batch,) = [next(iter(ResumableLoader(dataset(32, 0), 4, stack)))]
    engine.run()
    classify(type("P", (), {"module": reference}), batch).backward()
    assert nn.utils.clip_grad_norm_(reference.parameters(), 0.05) > 0.05
    SGD(reference.parameters(), lr=0.1).step()
    assert torch.allclose(flat(module.parameters()), flat(reference.parameters()), rtol=1e-12)


def test_equal_gradients_are_not_clipped_twice():
    """Autograd hands out one tensor for two parameters that enter only by their sum."""

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.ones(3, dtype=torch.float64))
            self.b = nn.Parameter(torch.ones(3, dtype=torch.float64))

    module = Sum()
    norm = 6**0.5  # of (1, 1, 1, 1, 1, 1)
    engine, _ = alone(
        module, lambda p, batch: (p.module.a + p.module.b).sum(), {"gradient_clipping": norm / 2}
    )
    engine.run()
    for p in (module.a, module.b):
        assert torch.allclose(p.detach(), torch.full((3,), 1 - 0.1 / 2, dtype=p.dtype), rtol=1e-5)


def test_scheduler_steps_once_per_optimiser_step():
    module = linear()
    optimizer = SGD(module.parameters(), lr=1.0)
    engine, problem = alone(
        module, classify, {"gradient_accumulation": 3, "unroll_steps": 2}, optimizer=optimizer
    )
    problem.scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    engine.run()
    assert optimizer.param_groups[0]["lr"] == 0.25
    assert problem.count == 6


@pytest.mark.parametrize("maximize", [False, True])
def test_maximize_ascends(maximize):
    module = linear()
    engine, problem = alone(module, classify, {"maximize": maximize}, steps=40)
    engine.train_iters = 1
    engine.run()
    first = problem.last_loss
    engine.train_iters = 40
    engine.run()
    assert (problem.last_loss > first) == maximize


def test_loss_may_come_in_a_mapping():
    module = linear()
    engine, problem = alone(
        module, lambda p, b: {"loss": classify(p, b), "accuracy": torch.tensor(0.5)}
    )
    engine.run()
    assert problem.last_stats["accuracy"] == 0.5
    assert problem.last_loss.dim() == 0
    assert not problem.last_loss.requires_grad


def test_batches_are_moved_and_may_be_batch_encodings():
    engine, lower, _ = two_text_levels(NoHypergradient())
    first = next(iter(lower.train_data_loader[0]))
    assert isinstance(first, transformers.BatchEncoding)  # what the loader gives
    engine.run()
    assert set(lower.cur_batch) == {"input_ids", "labels", "attention_mask"}


def test_a_loss_may_take_its_batch_apart():
    """``batch.pop("labels")``, as many a Trainer does; the batch is needed again for the replay."""

    class Popping(LowerText):
        def training_step(self, batch):
            labels = batch.pop("labels")
            logits = self.module(**batch).logits
            return nn.functional.cross_entropy(logits, labels)

    found = [
        upper_gradient(*two_text_levels(Unrolled(), unroll_steps=2, classes=(cls, UpperText))[::2])
        for cls in (LowerText, Popping)
    ]
    assert relative_error(*found) < 1e-5


def test_an_empty_loader_is_said():
    engine, _ = alone(linear(), classify, loader=[])
    with pytest.raises(UserError, match="data loader of problem 'alone' is empty"):
        engine.run()


def test_frozen_parameters_stay():
    engine, lower, _ = two_levels(Unrolled(), optimizer=lambda p: AdamW(p, lr=0.1), steps=3)
    frozen, trained = lower.module.frozen.detach().clone(), lower.module.A.detach().clone()
    engine.run()
    assert torch.equal(lower.module.frozen, frozen)
    assert not torch.equal(lower.module.A, trained)
    assert all(p is not lower.module.frozen for p in lower.trainable_parameters())
    assert lower.trainable_parameters() is lower.trainable_parameters()


def test_nothing_to_train_is_said():
    module = linear().requires_grad_(False)
    with pytest.raises(UserError, match="'alone' has no parameter that requires a gradient"):
        alone(module, classify)


def test_parameters_outside_the_module_are_refused():
    class Elsewhere(Lower):
        def configure_optimizer(self):
            raise AssertionError

    engine, _, _ = two_levels(
        Unrolled(),
        optimizer=lambda p: SGD([*p, nn.Parameter(torch.zeros(2, dtype=torch.float64))], lr=0.1),
    )
    with pytest.raises(UserError, match="1 of the 3 trainable parameters are not in"):
        engine.run()


class Regularised(Lower):
    """Reads its parameters from its own list, not from the module."""

    def training_step(self, batch):
        loss = super().training_step(batch)
        strength = self.upper.module.logits.exp().sum()
        return loss + 0.1 * strength * sum(p.pow(2).sum() for p in self.trainable_parameters())


@pytest.mark.parametrize("T1", [1, 2])
@pytest.mark.parametrize("keep", [True, False])
def test_a_loss_may_read_trainable_parameters(keep, T1):
    options = {"classes": (Regularised, Upper), "unroll_steps": T1, "dropout": 0.3}
    found = upper_gradient(*two_levels(Unrolled(keep_graph=keep), **options)[::2])
    expected = brute_force(lambda: two_levels(NoHypergradient(), **options))
    assert relative_error(found, expected) < 1e-6


@pytest.mark.parametrize(
    "estimator",
    [Unrolled(), Unrolled(keep_graph=False), FiniteDifference(difference="central"), Neumann()],
)
def test_parameters_read_past_the_module_are_found_out(estimator):
    """A loss that keeps its own reference to a parameter cannot be replayed at other weights."""

    class Hoarder(Lower):
        def training_step(self, batch):
            self.mine = getattr(self, "mine", None) or [self.module.A]
            return super().training_step(batch) + self.mine[0].pow(2).sum()

    engine, lower, _ = two_levels(estimator, classes=(Hoarder, Upper))
    lower.mine = [lower.module.A]
    with pytest.raises(UserError, match=r"'lower'.*reads .*parameter.*self\.module"):
        engine.run()


def test_upper_parameters_read_past_the_module_are_found_out():
    class Hoarder(Lower):
        def training_step(self, batch):
            return super().training_step(batch) + self.theirs.pow(2).sum() * self.module.A.sum()

    engine, lower, upper = two_levels(FiniteDifference(), classes=(Hoarder, Upper))
    lower.theirs = upper.module.logits
    with pytest.raises(UserError, match=r"'upper'.*reads .*parameter"):
        engine.run()
