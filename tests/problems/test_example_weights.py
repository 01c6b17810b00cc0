"""Example weights: their loss, their hypergradient, what they find and what is trained on after."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
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
from bilevel.hypergradient import (
    Alignment,
    FiniteDifference,
    Neumann,
    NoHypergradient,
    Sama,
    Unrolled,
)
from problems import LoRA, OptimizerSettings
from problems.common.weighted import weighted_mean
from problems.example_weights import ExampleWeights
from problems.example_weights.levels import ExampleLogits, ExampleWeighted, TrustedLoss
from tests.problems.jobs import ExactJob, SmallJob, collate, engine_of, make_data, train
from tests.problems.resuming import assert_resumes_exactly


def trusting(job):
    """The job with a trusted split."""
    job.data = dataclasses.replace(job.data, validation=make_data(16, seed=9).examples)
    return job


class TrustingJob(SmallJob):
    """A small job with trusted examples."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        trusting(self)


def test_equal_weights_are_the_mean_and_a_weight_of_zero_is_no_example():
    totals = torch.tensor([2.0, 6.0, 1.0], dtype=torch.float64)
    terms = torch.tensor([1, 3, 2])
    torch.testing.assert_close(
        weighted_mean(totals, terms, torch.full((3,), 0.3)), totals.sum() / 6, rtol=1e-12, atol=0
    )
    out = weighted_mean(totals, terms, torch.tensor([1.0, 0.0, 1.0]))
    torch.testing.assert_close(out, torch.tensor(1.0, dtype=torch.float64), rtol=1e-12, atol=0)


def first_upper_gradient(method, job):
    """dL2/dlogits of the first upper step, before it is scaled; the training's levels."""
    torch.manual_seed(0)
    training = method.weighting(job, None)
    found = []
    upper = training.problems[1]
    upper.gradient_hooks.append(lambda p, loss: found.append(p.module.logits.grad.clone()))
    engine_of(training, 1).run()
    return found[0], training.problems


def test_the_gradient_in_one_step_of_sgd_is_rens_closed_form():
    """- eta w'_i <g_val, g_i - g_batch> / sum w of the batch, per-example gradients by autograd."""
    eta, job = 0.1, trusting(ExactJob(Unrolled(), max_steps=1))
    plain = OptimizerSettings("sgd", lr=eta, schedule="constant", warmup_ratio=0)
    method = ExampleWeights(rank=2, lower=plain)
    found, (lower, upper) = first_upper_gradient(method, job)
    index = lower.train_data_loader[0].last_indices
    chosen = upper.train_data_loader[0].last_indices
    weights = lower.trainable_parameters()
    record = lower.recorded.last

    def gradient(rows, at):
        with lower.slots.holding(at):
            batch = collate(rows)
            loss = torch.nn.functional.cross_entropy(lower.module(**batch).logits, batch["labels"])
            return torch.autograd.grad(loss, at)

    before = [w.detach().requires_grad_() for w in record.weights]
    after = [w.detach().requires_grad_() for w in weights]
    val = gradient([job.data.validation[i] for i in chosen], after)
    each = [gradient([job.data.examples[i]], before) for i in index]
    mean = [torch.stack(g).mean(0) for g in zip(*each, strict=True)]
    expected = torch.zeros_like(found)
    for i, grads in zip(index, each, strict=True):
        inner = sum((v * (g - m)).sum() for v, g, m in zip(val, grads, mean, strict=True))
        # w = 1/2, its derivative in the logit 1/4, the batch's weights together n / 2
        expected[i] = -eta * 0.25 * inner / (0.5 * len(index))
    assert expected.abs().max() > 1e-6
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-12)


def test_unrolled_is_the_derivative_of_a_whole_run_of_two_adam_steps():
    """Against a central difference (h = 1e-4) in float64, of the logits of the examples seen."""
    job = trusting(ExactJob(Unrolled(), max_steps=1))
    method = ExampleWeights(rank=2, unroll_steps=2)
    found, (_, upper) = first_upper_gradient(method, job)
    chosen = upper.train_data_loader[0].last_indices
    trusted = collate([job.data.validation[i] for i in chosen])

    def loss(index, h):
        torch.manual_seed(0)
        training = method.weighting(trusting(ExactJob(Unrolled(), max_steps=1)), None)
        low, up = training.problems
        up.module.double()  # or the sigmoid's rounding would be as large as h
        with torch.no_grad():
            up.module.logits[index] += h
        up.training_step = lambda batch: low.module(**trusted).loss * 1.0
        values = []
        up.gradient_hooks.append(lambda p, value: values.append(float(value)))
        engine_of(training, 1).run()
        return values[0]

    seen = found.nonzero().flatten().tolist()
    assert len(seen) == 16
    h = 1e-4
    for index in seen[:4]:
        expected = (loss(index, h) - loss(index, -h)) / (2 * h)
        assert float(found[index]) == pytest.approx(expected, rel=1e-4, abs=1e-10)


ESTIMATORS = [FiniteDifference(), Unrolled(), Neumann(iterations=2), Sama()]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: e.name)
def test_every_estimator_moves_the_weights_by_about_as_much(estimator):
    """Their scales differ by orders of magnitude; that of a step does not."""
    job = TrustingJob(estimator, n=32, max_steps=4)
    outcome = train(ExampleWeights(rank=2), job)
    logits = outcome.example_weights.double().logit()
    assert torch.isfinite(logits).all()
    assert 0.1 < logits.abs().mean() < 1.0, "lr=0.3 is about what a visited logit moves by"


@pytest.mark.parametrize("clipping", [0.0, 1e-3])
def test_clipping_does_not_decide_how_far_the_weights_move(clipping):
    """Their gradient has a size of its own; by the norm, 64 of them moved by an eighth of it."""
    job = trusting(SmallJob(max_steps=1, gradient_clipping=clipping))
    _, (_, upper) = first_upper_gradient(ExampleWeights(rank=2), job)
    moved = upper.module.logits.detach()
    touched = moved[moved != 0]
    assert float(touched.square().mean().sqrt()) == pytest.approx(0.3, rel=1e-3)


def test_alignment_is_refused_as_there_are_no_gates():
    with pytest.raises(UserError, match="alignment needs gated"):
        train(ExampleWeights(rank=2), TrustingJob(Alignment()))


def area_under_curve(scores, positive):
    pairs = [(s, t) for s in scores[positive] for t in scores[~positive]]
    return np.mean([float(s > t) + 0.5 * float(s == t) for s, t in pairs])


class Line(nn.Module):
    """A linear classifier as a transformers model is called."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(5, 2)

    def forward(self, x, labels):
        logits = self.line(x)
        return SimpleNamespace(logits=logits, loss=nn.functional.cross_entropy(logits, labels))


def test_wrong_labels_get_the_smaller_weights():
    """A third of 120 labels is wrong, 30 others are trusted."""
    torch.manual_seed(0)
    x = torch.randn(150, 5)
    right = (x.sum(1) > 0).long()
    is_wrong = (torch.arange(150) % 3 == 0) & (torch.arange(150) < 120)
    data = list(zip(x, torch.where(is_wrong, 1 - right, right), strict=True))

    def batches(indices, numbered):
        def collate(rows):
            return dict(
                zip(("x", "labels"), map(torch.stack, zip(*rows, strict=True)), strict=True)
            )

        return ResumableLoader(data, 15, collate, indices=indices, numbered=numbered)

    def losses(outputs, batch):
        each = nn.functional.cross_entropy(outputs.logits, batch["labels"], reduction="none")
        return each, torch.ones(len(each))

    model, logits = Line(), ExampleLogits(120)
    lower = ExampleWeighted(
        "lower",
        ProblemConfig(hypergradient=Unrolled()),
        model,
        torch.optim.AdamW(model.parameters(), lr=1e-2),
        train_data_loader=batches(range(120), True),
        losses=losses,
    )
    upper = TrustedLoss(
        "upper",
        ProblemConfig(),
        logits,
        torch.optim.SGD(logits.parameters(), lr=0.3),
        train_data_loader=batches(range(120, 150), False),
    )
    graph = {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}}
    BilevelEngine([lower, upper], BilevelEngineConfig(train_iters=80, strategy="cpu"), graph).run()
    found = -logits.weights().detach().numpy()
    assert area_under_curve(found, is_wrong[:120].numpy()) > 0.9


def test_what_is_dropped_has_the_smallest_weights_and_the_trusted_ones_are_trained_on():
    job = TrustingJob(n=48)
    outcome = train(ExampleWeights(rank=2, drop=0.25), job)
    (last,) = job.runs[1]["problems"]
    rows = last.train_data_loader[0].dataset
    dropped = set(outcome.example_weights.argsort(stable=True)[:12].tolist())
    assert [id(row) for row in rows[:36]] == [
        id(row) for i, row in enumerate(job.data.examples) if i not in dropped
    ]
    assert list(rows[36:]) == list(job.data.validation)
    assert outcome.split == {"train": 36, "validation": 16}
    assert outcome.ranks is not None
    assert job.stages == ["weights", "retrain"]


def test_under_weights_trusted_examples_count_in_full():
    job = TrustingJob(n=48)
    outcome = train(ExampleWeights(rank=2, apply="weight"), job)
    (last,) = job.runs[1]["problems"]
    given = torch.cat([outcome.example_weights, torch.ones(16)])
    torch.testing.assert_close(last.weights, given / given.mean())
    alone = TrustingJob(n=48)
    train(ExampleWeights(rank=2, apply="nothing", trusted_too=False), alone)
    assert len(alone.runs[1]["problems"][0].train_data_loader[0].dataset) == 48


def test_lora_under_equal_weights_is_lora():
    """Float64, one pass: the same weights to rounding."""
    ends = []
    for weights in (None, [0.7] * 48):
        job = ExactJob(n=48)
        job.data = dataclasses.replace(job.data, weights=weights)
        ends.append(dict(train(LoRA(rank=2), job).model.named_parameters()))
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("stop", [1, 4])
def test_resuming_is_exact(stop, tmp_path, monkeypatch):
    def with_trusted(n):
        return dataclasses.replace(make_data(n), validation=make_data(16, seed=9).examples)

    monkeypatch.setattr("tests.problems.jobs.make_data", with_trusted)
    method = ExampleWeights(rank=2, unroll_steps=2, lora_dropout=0.1)
    assert_resumes_exactly(method, tmp_path / "state", stop, n=40, epochs=2)


def test_logits_start_at_one_half():
    assert ExampleLogits(3).weights().tolist() == [0.5] * 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": 0.8}, r"method\.split=0\.8.*task\.trusted"),
        ({"drop": 0.0}, r"drop=.*\(0, 1\)"),
        ({"apply": "relable"}, r"apply=.*drop"),
    ],
)
def test_wrong_settings_are_named(options, words):
    with pytest.raises(UserError, match=words):
        ExampleWeights(**options)


def test_what_is_missing_is_told_before_a_model_loads():
    method = ExampleWeights()
    with pytest.raises(UserError, match=r"none.*task\.trusted_file"):
        method.check_validation(0, 16)
    method.check_validation(2, 16)
    smoothed = dataclasses.replace(SmallJob().settings, label_smoothing=0.1)
    with pytest.raises(UserError, match=r"train\.label_smoothing=0\.1.*example_weights"):
        method.check_steps(48, smoothed)


@pytest.mark.parametrize("estimator", [NoHypergradient(), Alignment()])
def test_estimators_without_a_term_for_weights_are_refused(estimator):
    with pytest.raises(UserError, match=f"hypergradient={estimator.name}.*unrolled"):
        ExampleWeights().check_hypergradient(estimator)


@pytest.mark.parametrize(("options", "left"), [({}, 8 + 2), ({"trusted_too": False}, 8)])
def test_too_little_left_is_told_before_the_weights_are_learned(options, left):
    job = SmallJob(n=40)
    job.data = dataclasses.replace(job.data, validation=make_data(2, seed=9).examples)
    method = ExampleWeights(drop=0.8, **options)
    job.settings = dataclasses.replace(job.settings, batch_size=left)
    method.weighting(job, None)
    job.settings = dataclasses.replace(job.settings, batch_size=left + 1)
    with pytest.raises(UserError, match=rf"drop=0\.8 leaves {left} of 40.*batch_size={left + 1}"):
        method.weighting(job, None)
    ExampleWeights(apply="weight", **options).weighting(job, None)
