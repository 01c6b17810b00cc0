"""LoRA with settings for each module: what each does, what is refused, what is left at the end."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.nn import functional

from bilevel import UserError
from bilevel.lowrank import export_adapter, lora_layers, lora_scales
from problems.common import OptimizerSettings
from problems.lora import LoRA
from problems.lora_settings import ModuleSettings
from problems.lora_settings.model import GaussianDropout, last_linear
from problems.lora_settings.smoothed_loss import SmoothedLoss
from tests.problems.jobs import ExactJob, SmallJob, collate, logits_of, train

QUERY, VALUE = (
    f"bert.encoder.layer.{i}.attention.self.{kind}" for i, kind in ((0, "query"), (1, "value"))
)


class Output:
    """Of a model of classes."""

    def __init__(self, logits):
        self.logits, self.loss = logits, None


class Trained:
    training = True


@pytest.mark.parametrize("shifted", [False, True])
def test_a_smoothing_with_a_gradient_is_torchs(shifted):
    """Within 1e-12 of torch's, ignored labels and all; its derivative likewise of a difference."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 6, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 5, (3, 6), generator=generator)
    labels[0, 2:] = -100
    kept, wanted = (logits[:, :-1], labels[:, 1:]) if shifted else (logits, labels)

    def plain(epsilon):
        flat = kept.reshape(-1, 5), wanted.reshape(-1)
        return functional.cross_entropy(*flat, label_smoothing=epsilon)

    epsilon = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    found = SmoothedLoss(lambda: epsilon, shifted)(
        Trained(), (), {"labels": labels}, Output(logits)
    )
    assert float(found.loss.detach() - plain(0.2)) == pytest.approx(0, abs=1e-12)
    (slope,) = torch.autograd.grad(found.loss, epsilon)
    assert float(slope) == pytest.approx(float(plain(0.7) - plain(0.2)) / 0.5, abs=1e-12)


def test_gaussian_dropout_has_dropouts_mean_and_variance_and_a_derivative():
    p = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    layer = GaussianDropout(lambda: p)
    x = torch.full((400_000,), 2.0, dtype=torch.float64)
    torch.manual_seed(0)
    noisy = layer(x).detach()
    assert float(noisy.mean()) == pytest.approx(2, abs=0.01)
    expected = nn.functional.dropout(x, 0.3).var()
    assert float(noisy.var()) == pytest.approx(float(expected), rel=0.02)

    def loss(share):
        torch.manual_seed(1)
        return GaussianDropout(lambda: share)(x[:50]).pow(3).sum()

    (slope,) = torch.autograd.grad(loss(p), p)
    with torch.no_grad():
        difference = (loss(p + 1e-6) - loss(p - 1e-6)) / 2e-6
    assert float(slope) == pytest.approx(float(difference), rel=1e-7)
    assert torch.equal(layer.eval()(x), x)


def trained(settings, **options):
    job = ExactJob(max_steps=3)
    return job, train(LoRA(rank=4, lora_alpha=8, settings=settings, **options), job)


def test_the_loss_has_what_the_updates_cost():
    """By PEFT's own delta weights, at scales of the modules' own; within 1e-12."""
    settings = ModuleSettings(decay={QUERY: 0.3, VALUE: 0.1}, scale={QUERY: 1.7})
    job, outcome = trained(settings)
    (problem,) = job.runs[0]["problems"]
    batch = collate(list(job.data.examples[:8]))
    layers = lora_layers(outcome.model)
    squares = {n: layer.get_delta_weight("default").square().sum() for n, layer in layers.items()}
    plain = problem.module(**batch).loss
    expected = plain + 0.3 * squares[QUERY] + 0.1 * squares[VALUE]
    torch.testing.assert_close(problem.loss(batch), expected, rtol=1e-12, atol=0)
    assert squares[QUERY] > 1e-6
    assert lora_scales(outcome.model)[QUERY] == pytest.approx(3.4)
    assert lora_scales(outcome.model)[VALUE] == 2


def in_groups(job, outcome, option):
    """Parameter -> what the optimiser's group of it has of ``option``."""
    (problem,) = job.runs[0]["problems"]
    found = {
        id(p): group[option] for group in problem.optimizer.param_groups for p in group["params"]
    }
    named = {n: found[id(p)] for n, p in outcome.model.named_parameters() if id(p) in found}
    assert len(named) == len(found) == 4 * 2 + 2
    return named


def test_rates_are_factors_of_each_modules_own():
    settings = ModuleSettings(learning_rate={QUERY: 2.0, "head": 0.5})
    job, outcome = trained(settings, optimizer=OptimizerSettings(lr=0.02, schedule="constant"))
    for name, rate in in_groups(job, outcome, "initial_lr").items():
        expected = 0.04 if QUERY in name else 0.01 if "classifier" in name else 0.02
        assert rate == pytest.approx(expected), name


def test_weight_decays_are_each_modules_own():
    settings = ModuleSettings(weight_decay={QUERY: 0.5, "head": 0.0})
    optimizer = OptimizerSettings(lr=0.02, schedule="constant", weight_decay=0.25)
    job, outcome = trained(settings, optimizer=optimizer)
    for name, decay in in_groups(job, outcome, "weight_decay").items():
        assert decay == (0.5 if QUERY in name else 0.0 if "classifier" in name else 0.25), name


def test_dropout_is_each_modules_own():
    settings = ModuleSettings(dropout={QUERY: 0.25, VALUE: 0.0})
    _, outcome = trained(settings, lora_dropout=0.1)
    shares = {
        name: part.p if isinstance(part, nn.Dropout) else 0.0
        for name, layer in lora_layers(outcome.model).items()
        for part in [layer.lora_dropout["default"]]
    }
    assert shares.pop(QUERY) == 0.25
    assert shares.pop(VALUE) == 0
    assert set(shares.values()) == {0.1}


def test_what_is_saved_has_the_temperature_and_the_scales(tmp_path):
    """Read by stock PEFT: the logits of the training's end within 1e-6 (saved in fp32)."""
    settings = ModuleSettings(temperature=1.8, scale={QUERY: 0.6}, label_smoothing=0.1)
    job, outcome = trained(settings)
    linear = last_linear(outcome.model, job.head_modules)
    assert not linear._forward_hooks
    said = logits_of(outcome.model, job)
    report = export_adapter(outcome.model, tmp_path)
    for folder in (report.adapter, report.compact):
        again = PeftModel.from_pretrained(job.build_model(), str(folder))
        torch.testing.assert_close(logits_of(again, job), said, rtol=1e-5, atol=1e-6)


def test_a_temperature_divides_the_logits_of_the_training():
    logits, weights = [], []
    for tau in (1.0, 2.0):
        job = ExactJob(max_steps=1)
        settings = ModuleSettings(temperature=tau, decay={QUERY: 1e-3})
        training = LoRA(rank=4, settings=settings).prepare(job, None)
        logits.append(logits_of(training.model, job))
        training.finish({})
        weights.append(logits_of(training.model, job))
    torch.testing.assert_close(logits[1], logits[0] / 2, rtol=1e-12, atol=0)
    torch.testing.assert_close(weights[1], logits[1], rtol=1e-12, atol=0)


def test_without_settings_nothing_changes():
    job, outcome = trained(ModuleSettings())
    other, again = trained(ModuleSettings(decay={QUERY: 0.0}))
    assert not ModuleSettings().given
    torch.testing.assert_close(
        logits_of(outcome.model, job), logits_of(again.model, other), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("setting", ["decay", "learning_rate", "weight_decay", "scale", "dropout"])
def test_a_module_that_is_not_there(setting):
    settings = ModuleSettings(**{setting: {QUERY.replace("query", "key"): 0.5}})
    job = SmallJob()
    targets = [QUERY, VALUE]
    with pytest.raises(UserError, match=rf"settings\.{setting}.*self\.key.*did you mean"):
        LoRA(settings=settings).check_model(job.build_model(), targets)


@pytest.mark.parametrize("settings", [{"label_smoothing": 0.1}, {"temperature": 2.0}])
def test_numbers_have_no_classes(settings):
    job = SmallJob()
    for example in job.data.examples:
        example["labels"] = float(example["labels"])
    with pytest.raises(UserError, match=next(iter(settings))):
        LoRA(settings=ModuleSettings(**settings)).prepare(job, None)


def test_two_smoothings_are_refused():
    job = SmallJob(label_smoothing=0.1)
    with pytest.raises(UserError, match=r"train\.label_smoothing"):
        LoRA(settings=ModuleSettings(label_smoothing=0.1)).check_steps(48, job.settings)


def test_a_temperature_needs_a_head():
    model = get_peft_model(SmallJob().build_model(), LoraConfig(target_modules=["query"]))
    with pytest.raises(UserError, match="temperature needs a head"):
        last_linear(model, [])
