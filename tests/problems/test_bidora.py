"""BiDoRA on PEFT's DoRA: who owns what, what is differentiated, and what it leaves behind."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn

from bilevel import UserError
from bilevel.hypergradient import (
    Alignment,
    ConjugateGradient,
    FiniteDifference,
    Neumann,
    NoHypergradient,
    Sama,
    Unrolled,
)
from problems.bidora import BiDoRA, direction_residual, dora_layers, magnitudes
from problems.common import OptimizerSettings
from tests.problems.jobs import ExactJob, SmallJob, collate, logits_of, train


def test_the_upper_level_owns_the_magnitudes_and_the_lower_one_all_else_that_is_trained():
    job = SmallJob()
    outcome = train(BiDoRA(), job)
    lower, upper = job.runs[0]["problems"]
    names = {id(p): n for n, p in outcome.model.named_parameters()}
    above = {names[id(p)] for p in upper.trainable_parameters()}
    below = {names[id(p)] for p in lower.trainable_parameters()}
    assert {id(p) for p in upper.module.parameters()} == {
        id(p) for p in upper.trainable_parameters()
    }
    assert len(above) == 4
    assert all("lora_magnitude_vector" in name for name in above)
    assert not above & below
    assert above | below == {n for n, p in outcome.model.named_parameters() if p.requires_grad}
    assert sum("classifier" in name for name in below) == 2, "the head belongs to the lower level"
    assert sum("lora_A" in name or "lora_B" in name for name in below) == 8
    after = dict(outcome.model.named_parameters())
    for name, value in job.runs[0]["before"].items():
        assert torch.equal(after[name], value) != (name in above | below), name
    assert outcome.trainable_parameters == 4 * 4 * 32 + 34 + 4 * 16
    assert set(outcome.ranks.values()) == {4}
    assert outcome.keep is None
    assert float(job.runs[0]["watch"]()["magnitude_change"]) > 0


def test_the_start_is_the_pretrained_model():
    job = SmallJob()
    base = job.build_model()
    weights = {n: m.weight for n, m in base.named_modules() if isinstance(m, nn.Linear)}
    model = BiDoRA()._dora(job)
    torch.testing.assert_close(logits_of(model, job), logits_of(base, job), rtol=0, atol=1e-6)
    for name, m in zip(dora_layers(model), magnitudes(model).parameters(), strict=True):
        torch.testing.assert_close(m, weights[name].norm(dim=1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("target", ["query", "intermediate.dense", "output.dense"])
def test_the_penalty_is_the_norm_of_the_full_gram_matrix(target):
    """Wide, tall and square modules; value and gradient against the plain formula, float64."""
    job = ExactJob()
    config = job.build_model().config
    job.target_modules = [target]
    assert config.intermediate_size == 16
    model = BiDoRA(rank=3)._dora(job)
    layers = list(dora_layers(model).values())
    for layer in layers:
        base, down, up = layer.get_base_layer(), layer.lora_A["default"], layer.lora_B["default"]
        nn.init.normal_(up.weight, std=0.5)
        if target != "query":  # make it wide, or tall
            cut = base.weight[:5] if target == "output.dense" else base.weight[:, :5]
            base.weight = nn.Parameter(cut.clone(), requires_grad=False)
            up.weight = nn.Parameter(up.weight[: cut.shape[0]].detach().clone())
            down.weight = nn.Parameter(down.weight[:, : cut.shape[1]].detach().clone())
    factors = [w for x in layers for w in (x.lora_A["default"].weight, x.lora_B["default"].weight)]
    found = direction_residual(layers)
    terms = []
    for layer, (A, B) in zip(layers, zip(factors[::2], factors[1::2], strict=True), strict=True):
        V = layer.get_base_layer().weight + 8 / 3 * B @ A
        D = V / V.norm(dim=1, keepdim=True)
        terms.append((D @ D.T - torch.eye(len(D), dtype=D.dtype)).norm())
    expected = sum(terms) / len(terms)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    both = (torch.autograd.grad(value, factors) for value in (found, expected))
    for mine, theirs in zip(*both, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-12)


def test_orthogonal_directions_have_a_finite_gradient():
    job = ExactJob()
    model = BiDoRA()._dora(job)
    layer = next(iter(dora_layers(model).values()))
    layer.get_base_layer().weight.data = torch.eye(16, dtype=torch.float64)
    residual = direction_residual([layer])
    assert residual < 1e-5
    residual.backward()
    assert torch.isfinite(layer.lora_B["default"].weight.grad).all()


@pytest.mark.parametrize("gamma", [0.0, 0.25])
def test_the_lower_loss_has_the_penalty_and_the_upper_has_not(gamma):
    job = ExactJob(max_steps=3)
    train(BiDoRA(gamma=gamma), job)
    lower, upper = job.runs[0]["problems"]
    batch = collate(list(job.data.examples[:8]))
    task = lower.module(**batch).loss
    residual = job.runs[0]["watch"]()["direction_residual"]
    assert residual > 0.1
    torch.testing.assert_close(lower.loss(batch) - task, gamma * residual, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(upper.loss(batch), task, rtol=0, atol=0)


ESTIMATORS = {
    "finite_difference": FiniteDifference(),
    "unrolled": Unrolled(),
    "neumann": Neumann(),
    "cg": ConjugateGradient(),
    "sama": Sama(),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_works_through_peft_and_changes_the_magnitudes(name):
    ends = []
    for estimator in (NoHypergradient(), ESTIMATORS[name]):
        job = SmallJob(estimator, epochs=2)
        outcome = train(BiDoRA(unroll_steps=2), job)
        ends.append(torch.cat(list(magnitudes(outcome.model).parameters())))
    assert torch.isfinite(ends[1]).all()
    assert not torch.equal(*ends)


def test_alignment_which_is_for_plain_lora_is_refused():
    with pytest.raises(UserError, match=r"plain.*use_dora"):
        train(BiDoRA(), SmallJob(Alignment()))


def upper_gradient(estimator, settings):
    """The first hypergradient at T1 = 1, and v = dL2/dV at the weights it was taken at."""
    seen = []

    class Listening(ExactJob):
        def run(self, training):
            lower, upper = training.problems

            def note(problem, loss):
                batch = problem.cur_batch
                v = torch.autograd.grad(lower.module(**batch).loss, lower.trainable_parameters())
                gradient = [p.grad.clone() for p in problem.trainable_parameters()]
                seen.append((torch.cat(gradient), v))

            upper.gradient_hooks.append(note)
            return super().run(training)

    train(BiDoRA(lower=settings), Listening(estimator, n=64, max_steps=1))
    assert len(seen) == 1
    return seen[0]


LOWER = {
    "sgd": OptimizerSettings(name="sgd", lr=0.5, warmup_ratio=0.0),
    "adamw": OptimizerSettings(lr=1e-2, betas=(0.8, 0.9), eps=1e-3, warmup_ratio=0.0),
}


def stepped(settings, shift):
    """V after one step of torch's own optimiser from magnitudes m + shift, and the model."""
    job = ExactJob(n=64)
    method = BiDoRA(lower=settings)
    torch.manual_seed(0)
    model = method._dora(job)
    model.train()
    parts = method.parts(job)
    with torch.no_grad():
        pieces = shift.split([m.numel() for m in magnitudes(model).parameters()])
        for m, piece in zip(magnitudes(model).parameters(), pieces, strict=True):
            m.add_(piece)
    above = {id(m) for m in magnitudes(model).parameters()}
    parameters = [p for p in model.parameters() if p.requires_grad and id(p) not in above]
    if settings.name == "sgd":
        optimizer = torch.optim.SGD(parameters, lr=settings.lr)
    else:
        optimizer = torch.optim.AdamW(
            parameters, lr=settings.lr, betas=settings.betas, eps=settings.eps, weight_decay=0.0
        )
    residual = direction_residual(list(dora_layers(model).values()))
    loss = model(**next(iter(parts.lower))).loss + 1e-5 * residual
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return parameters, model, parts


@pytest.mark.parametrize("name", LOWER)
def test_unrolled_is_the_derivative_of_the_step_that_was_taken(name):
    """dL2/dm + (dV1/dm)^T v with v of a constant norm; dV1/dm by central differences, float64.

    Within 1e-5; the step is PEFT's, whose gradient takes the norm for a constant.
    """
    found, v = upper_gradient(Unrolled(), LOWER[name])
    direct, _ = upper_gradient(NoHypergradient(), LOWER[name])
    h, implicit = 1e-5, torch.zeros_like(found)
    for index in range(0, len(found), 7):  # some of each module's
        shift = torch.zeros_like(found)
        shift[index] = h
        plus, minus = (stepped(LOWER[name], s)[0] for s in (shift, -shift))
        change = [(a - b).detach() / (2 * h) for a, b in zip(plus, minus, strict=True)]
        implicit[index] = sum((d * x).sum() for d, x in zip(change, v, strict=True))
    some = implicit != 0
    assert int(some.sum()) > 5
    error = (found - direct - implicit)[some].norm()
    assert error < 1e-5 * implicit[some].norm()
    # And the direct partial is that of L2 at the stepped weights.
    _, model, parts = stepped(LOWER[name], torch.zeros_like(found))
    loss = model(**next(iter(parts.upper))).loss
    partial = torch.autograd.grad(loss, list(magnitudes(model).parameters()))
    torch.testing.assert_close(direct, torch.cat(partial), rtol=1e-9, atol=1e-15)


def test_unrolled_lacks_the_norm_that_pefts_gradient_leaves_out():
    """Against differences of whole runs the direct partial is exact, the implicit term is not.

    So nothing may call it exact: the docstring, ``BiDoRA.inexact`` and docs/hypergradients.md.
    """
    settings = LOWER["sgd"]
    found, _ = upper_gradient(Unrolled(), settings)
    direct, _ = upper_gradient(NoHypergradient(), settings)
    h, whole = 1e-5, torch.zeros_like(found)

    def loss(shift):
        with torch.no_grad():
            _, model, parts = stepped_with_gradient(settings, shift)
            return model(**next(iter(parts.upper))).loss

    some = torch.zeros(len(found), dtype=torch.bool)
    some[::7] = True
    for index in some.nonzero().flatten():
        shift = torch.zeros_like(found)
        shift[index] = h
        whole[index] = (loss(shift) - loss(-shift)) / (2 * h)
    missing = (whole - found)[some].norm()
    share = missing / (whole - direct)[some].norm()
    assert share == pytest.approx(7e-3, rel=0.2)  # as docs/hypergradients.md has it
    assert missing > 1e-6 * whole[some].norm()  # and not the difference's rounding
    assert "norm" in BiDoRA.inexact


def stepped_with_gradient(settings, shift):
    """:func:`stepped`, called where no gradient is wanted around it."""
    with torch.enable_grad():
        return stepped(settings, shift)


def test_finite_difference_sees_the_norm_that_the_steps_leave_out():
    """As the docstring says: close to `unrolled` in direction, but not equal, for SGD at T1 = 1."""
    settings = LOWER["sgd"]
    exact, _ = upper_gradient(Unrolled(), settings)
    direct, _ = upper_gradient(NoHypergradient(), settings)
    difference = FiniteDifference(scale="inner_lr", difference="central", epsilon=1e-5)
    other, _ = upper_gradient(difference, settings)
    a, b = exact - direct, other - direct
    assert (a - b).norm() > 1e-3 * a.norm()
    assert nn.functional.cosine_similarity(a, b, dim=0) > 0.5


def test_peft_saves_it_and_stock_peft_reads_it(tmp_path):
    job = SmallJob(epochs=2)
    outcome = train(BiDoRA(), job)
    trained = logits_of(outcome.model, job)
    outcome.model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["use_dora"] is True
    loaded = PeftModel.from_pretrained(job.build_model(), str(tmp_path))
    torch.testing.assert_close(logits_of(loaded, job), trained, rtol=0, atol=1e-5)
    for mine, theirs in zip(
        magnitudes(outcome.model).parameters(), magnitudes(loaded).parameters(), strict=True
    ):
        assert torch.equal(mine, theirs)
    assert not torch.allclose(logits_of(job.build_model(), job), trained, atol=1e-3)


def test_a_retraining_takes_a_new_direction_on_all_of_the_data_at_the_magnitudes_found():
    job = SmallJob(n=50)
    outcome = train(BiDoRA(retrain=True, retrain_lr=0.03), job)
    assert job.stages == ["search", "retrain"]
    searched, retrained = (run["model"] for run in job.runs)
    assert searched is not retrained
    for mine, theirs in zip(
        magnitudes(searched).parameters(), magnitudes(retrained).parameters(), strict=True
    ):
        assert torch.equal(mine, theirs), "through JSON and the whole retraining"
        assert not theirs.requires_grad
    (problem,) = job.runs[1]["problems"]
    indices = problem.train_data_loader[0].indices
    assert sorted(indices) == list(range(50))
    assert problem.optimizer.param_groups[0]["initial_lr"] == 0.03
    start = {n: p for n, p in job.runs[1]["before"].items() if "lora_B" in n}
    assert all(not p.any() for p in start.values()), "a new direction starts at W0"
    assert outcome.model is retrained
    assert outcome.split == {"train": 40, "validation": 10}
    assert outcome.trainable_parameters == 4 * 4 * 32 + 34 + 4 * 16
    assert outcome.validation_loss == 0.5
    layers = [m for m in retrained.modules() if isinstance(m, LoraLayer)]
    assert all(layer.lora_B["default"].weight.any() for layer in layers)


def test_without_a_rate_of_its_own_the_upper_level_takes_the_lower_ones():
    for lower, settings, expected in (
        (OptimizerSettings(), {}, 1e-2),
        (OptimizerSettings(), {"lr": None}, 5e-4),
        (OptimizerSettings(lr=0.3), {}, 0.3),
    ):
        job = SmallJob(max_steps=1, **settings)
        train(BiDoRA(lower=lower), job)
        for problem in job.runs[0]["problems"]:
            assert problem.optimizer.param_groups[0]["initial_lr"] == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gamma": -1.0}, "gamma=.*0 or more"),
        ({"retrain_lr": 0.0}, "retrain_lr=.*more than 0"),
    ],
)
def test_wrong_settings_are_named(options, words):
    with pytest.raises(UserError, match=words):
        BiDoRA(**options)
