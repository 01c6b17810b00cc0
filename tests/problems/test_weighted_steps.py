"""Weights of examples and sources: one step, however it is split, and which mean it descends."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from bilevel import UserError
from bilevel.data import INDEX
from bilevel.hypergradient import FiniteDifference, Unrolled
from problems import LoRA, OptimizerSettings, SourceWeights
from problems.common.weighted import Weighted
from problems.example_weights import ExampleWeights
from problems.source_weights.levels import SourceLogits, SourceWeighted
from tests.problems.jobs import ExactJob, SmallJob, engine_of, make_data

SGD = OptimizerSettings("sgd", lr=0.1, schedule="constant", warmup_ratio=0.0)
METHODS = {
    "example_weights": ExampleWeights(rank=2, lower=SGD),
    "source_weights": SourceWeights(rank=2, lower=SGD),
    "source_weights, drawn": SourceWeights(rank=2, lower=SGD, sampling="draw"),
}


def after_one_step(method, estimator, batch_size, accumulation):
    """dL2/dE and V after T1 lower steps of 8 examples in all, under unequal weights."""
    job = ExactJob(
        estimator,
        max_steps=1,
        batch_size=batch_size,
        gradient_accumulation=accumulation,
        group_by_length=False,
    )
    sources = ["abc"[i % 3] for i in range(len(job.data.examples))]
    trusted = make_data(16, seed=9).examples
    job.data = dataclasses.replace(job.data, validation=trusted, sources=sources)
    torch.manual_seed(0)
    training = method.stages()[0].prepare(job, None)
    lower, upper = training.problems
    upper.module.double()
    (E,) = upper.trainable_parameters()
    with torch.no_grad():
        draw = torch.Generator().manual_seed(3)
        E.copy_(torch.randn(len(E), generator=draw))
        for name, p in lower.module.named_parameters():
            if "lora_B" in name:  # B = 0 hides the lower level from the upper one
                p.copy_(torch.linspace(-0.3, 0.3, p.numel()).view_as(p))
    found = []
    upper.gradient_hooks.append(
        lambda problem, loss: found.append(
            torch.zeros_like(E) if E.grad is None else E.grad.clone()
        )
    )
    upper.train_data_loader.batch_size = 16 // accumulation  # of D_val all, in any order
    torch.manual_seed(1)
    engine_of(training, 1).run()
    V = torch.cat([p.detach().flatten() for p in lower.trainable_parameters()])
    return found[-1], V


@pytest.mark.parametrize(
    "estimator", [Unrolled(), FiniteDifference()], ids=["unrolled", "difference"]
)
@pytest.mark.parametrize("method", [name for name in METHODS if "drawn" not in name])
def test_a_step_is_the_same_in_micro_batches(method, estimator):
    """8 examples at once, 2 of 4, 4 of 2, 8 of 1: in float64 to 1e-9; the last one learned nothing
    where each micro-batch was divided by its own weights."""
    whole = after_one_step(METHODS[method], estimator, 8, 1)
    assert whole[0].norm() > 1e-5
    for size, accumulation in ((4, 2), (2, 4), (1, 8)):
        parts = after_one_step(METHODS[method], estimator, size, accumulation)
        for part, one in zip(parts, whole, strict=True):
            assert (part - one).norm() < 1e-9 * one.norm()


def test_a_drawn_step_learns_from_micro_batches_of_one():
    """Draws differ, a batch at a time; each tells its examples from the others of the step."""
    gradient, _ = after_one_step(METHODS["source_weights, drawn"], Unrolled(), 1, 8)
    assert gradient.norm() > 1e-5


@pytest.mark.parametrize(
    ("method", "allowed"),
    [("example_weights", False), ("source_weights", True), ("source_weights, drawn", False)],
)
def test_a_step_of_one_example_is_refused_where_its_weight_falls_out(method, allowed):
    one = SmallJob(batch_size=1).settings
    if allowed:
        METHODS[method].check_steps(48, one)
    else:
        with pytest.raises(UserError, match=r"train\.batch_size=1.*train\.gradient_accumulation"):
            METHODS[method].check_steps(48, one)
    METHODS[method].check_steps(48, SmallJob(batch_size=1, gradient_accumulation=2).settings)


def test_the_mean_over_batches_is_the_weighted_mean_over_d_train():
    """One good source of six, 8 examples in a batch: over all batches of an epoch exactly. Divided
    by its own weights, a batch without a good example took a whole step on the others."""
    torch.manual_seed(0)
    sources = ["good", *"abcde"] * 8
    logits = SourceLogits(["good", *"abcde"], sources).double()
    logits.theta.data[0] = torch.tensor(19.0 * 5).log()
    totals, terms = torch.rand(48, dtype=torch.float64), torch.randint(1, 5, (48,))
    seen = []

    class Level(SourceWeighted):
        upper = SimpleNamespace(module=logits)

        def totals(self, batch):
            return totals[batch[INDEX]], terms[batch[INDEX]]

    level = object.__new__(Level)
    for index in torch.randperm(48).split(8):
        share = terms[index].sum() / terms.sum()  # as the engine counts parts
        seen.append(float(level.training_step({INDEX: index}) * share))
    weights = torch.tensor([0.95 if name == "good" else 0.01 for name in sources]).double()
    expected = (weights * totals).sum() / (weights.mean() * terms.sum())
    assert sum(seen) == pytest.approx(float(expected), rel=1e-7)


def test_a_source_that_is_not_trained_on_does_not_count():
    """A part of one source is D_val: the mean is over the rest."""
    logits = SourceLogits("ab", "aaab", [1, 2, 3])
    logits.theta.data = torch.tensor([0.4, -0.3])
    assert float(logits.weights(torch.tensor([1, 2, 3])).mean()) == pytest.approx(1, abs=1e-6)


def test_given_weights_count_relative_to_their_mean():
    job = SmallJob(batch_size=4)
    plain = train_lora(job, None)
    torch.testing.assert_close(train_lora(job, [0.3] * 48), plain, rtol=1e-5, atol=1e-7)
    assert train_lora(job, [0.0] * 24 + [1.0] * 24).ne(plain).any()
    with pytest.raises(UserError, match="all weights of examples are 0"):
        train_lora(job, [0.0] * 48)


def train_lora(job, weights):
    """What LoRA comes to after a step of SGD under weights."""
    job.data = dataclasses.replace(job.data, weights=weights)
    torch.manual_seed(0)
    training = LoRA(rank=2, optimizer=SGD).stages()[0].prepare(job, None)
    (lower,) = training.problems
    assert isinstance(lower, Weighted) is (weights is not None)
    torch.manual_seed(1)
    engine_of(training, 2).run()
    return torch.cat([p.detach().flatten() for p in lower.trainable_parameters()])
