"""method.peft: PEFT's scale and starts against their equations, through gates, cuts and export."""

import json
import math

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers.pytorch_utils import Conv1D

from bilevel import lowrank
from bilevel.errors import UserError
from bilevel.hypergradient import FiniteDifference
from bilevel.lowrank.moved_base import start_of
from bilevel.lowrank.singular import singular_values
from experiments.models.target_modules import target_modules
from problems import (
    AutoLoRA,
    BiLoRA,
    DoRA,
    DyLoRA,
    ExampleWeights,
    LoRA,
    LoRACut,
    PeftOptions,
    SaLoRA,
    SaLoRABilevel,
    common,
)
from problems.lora_settings.record import ModuleSettings
from tests.experiments.architectures import SEQ2SEQ, build
from tests.problems.jobs import SmallJob, logits_of, train

STARTS = [True, "gaussian", "orthogonal", "eva", "pissa", "pissa_niter_16", "olora"]
MOVED = ["pissa", "pissa_niter_16", "olora"]


class BuiltJob(SmallJob):
    """Of an architecture, GPT-2's projections parted as LoRA has them."""

    def __init__(self, name="bert", **settings):
        super().__init__(hypergradient=FiniteDifference(), **settings)
        self.name = name
        base = self.build_model()
        self.target_modules = target_modules(base, "all")
        head = "classification_head" if name in SEQ2SEQ else "score"
        self.head_modules = ["classifier" if name == "bert" else head]
        if name in SEQ2SEQ:  # which read the state at the end of the text
            for row in self.data.examples:
                row["input_ids"] = [*(max(3, i) for i in row["input_ids"]), 2]

    def stock(self):
        """As transformers makes it."""
        model = build(self.name)
        model.config.pad_token_id = 0
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        return model

    def build_model(self):
        return lowrank.split_fused(self.stock())


def unlike(job, start):
    """Whether PEFT cannot start this architecture so."""
    return start == "olora" and any(
        isinstance(job.build_model().get_submodule(name), Conv1D) for name in job.target_modules
    )


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "bart", "t5"])
@pytest.mark.parametrize("start", STARTS)
def test_training_starts_at_the_pretrained_function(name, start):
    job = BuiltJob(name)
    if unlike(job, start):
        with pytest.raises(UserError, match="olora"):
            LoRA(peft=PeftOptions(init_lora_weights=start)).check_model(
                job.build_model(), job.target_modules
            )
        return
    before = logits_of(job.build_model(), job)
    for scaled in (True,) if start == "eva" else (False, True):
        options = PeftOptions(use_rslora=scaled, init_lora_weights=start)
        model = common.with_lora(job, 4, 16.0, 0.0, options)
        torch.testing.assert_close(logits_of(model, job), before, rtol=1e-4, atol=2e-5)
        scales = set(lowrank.lora_scales(model).values())
        assert scales == {16.0 / 2 if scaled else 16.0 / 4}
        moved = [layer.lora_B["default"].weight.abs().max() for layer in _layers(model)]
        assert (min(moved) > 0) == (start not in (True, "gaussian", "eva"))
        assert model.peft_config["default"].init_lora_weights in (True, "gaussian", "orthogonal")


def _layers(model):
    return lowrank.lora_layers(model).values()


def test_pissa_starts_at_the_largest_singular_parts():
    job = BuiltJob("bert")
    weights = dict(job.build_model().named_parameters())
    model = common.with_lora(job, 3, 6.0, 0.0, PeftOptions(init_lora_weights="pissa"))
    for name, layer in lowrank.lora_layers(model).items():
        whole = weights[f"{name}.weight"].detach().double().numpy()
        u, s, v = np.linalg.svd(whole, full_matrices=False)
        best = (u[:, :3] * s[:3]) @ v[:3]
        A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        np.testing.assert_allclose(2.0 * (B @ A).detach().numpy(), best, atol=1e-5)
        left = layer.get_base_layer().weight.detach().numpy()
        np.testing.assert_allclose(left, whole - best, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_eva_starts_at_the_principal_components_of_the_inputs(precision):
    job = BuiltJob("bert", batch_size=16, precision=precision)
    model = common.with_lora(job, 2, 6.0, 0.0, PeftOptions(init_lora_weights="eva"))
    base = job.build_model().eval()
    name = job.target_modules[0]
    seen = []
    base.get_submodule(name).register_forward_hook(lambda _m, x, _y: seen.append(x[0].detach()))
    for row in job.data.examples:  # one by one: without padding
        base(**job.data.collate([row]))
    inputs = torch.cat([x.reshape(-1, x.shape[-1]) for x in seen]).double()
    _, _, v = torch.linalg.svd(inputs - inputs.mean(0), full_matrices=False)
    A = lowrank.lora_layers(model)[name].lora_A["default"].weight.detach().double()
    torch.testing.assert_close(A @ A.T, torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-5)
    assert torch.linalg.svdvals(A @ v[:2].T).min() > 0.9  # of the angles between the two planes


def test_eva_uses_only_what_is_trained_on():
    """What is held out to choose by is not looked at."""
    job = BuiltJob("bert")
    seen = []
    collate = job.data.collate
    object.__setattr__(
        job.data, "collate", lambda rows: seen.extend(map(id, rows)) or collate(rows)
    )
    training = LoRA(rank=2, hold_out=0.25, peft=PeftOptions(init_lora_weights="eva")).prepare(
        job, None
    )
    assert seen
    assert not set(seen) & set(map(id, training.validation))


def test_eva_that_does_not_settle_ends(monkeypatch):
    monkeypatch.setattr("problems.common.starts.BATCHES", 3)
    job = BuiltJob("bert", batch_size=1)
    with pytest.raises(UserError, match="eva"):
        common.with_lora(job, 12, 6.0, 0.0, PeftOptions(init_lora_weights="eva"))


@pytest.mark.parametrize("name", ["bert", "gpt2", "bart"])
@pytest.mark.parametrize("start", ["rslora", "orthogonal", "eva", "pissa", "olora"])
def test_stock_peft_on_the_untouched_base_has_the_trained_function(name, start, tmp_path):
    job = BuiltJob(name)
    scaled = start == "rslora"
    options = PeftOptions(use_rslora=scaled, init_lora_weights=True if scaled else start)
    if unlike(job, start):
        return
    outcome = train(LoRA(rank=4, peft=options), job)
    tuned = logits_of(outcome.model, job)
    report = lowrank.export_adapter(outcome.model, tmp_path)
    assert set(report.ranks.values()) == {8 if start in MOVED else 4}
    for folder in (report.adapter, report.compact):
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["init_lora_weights"] is True
        assert config["use_rslora"] is False
        stock = PeftModel.from_pretrained(job.stock(), str(folder)).eval()
        torch.testing.assert_close(logits_of(stock, job), tuned, rtol=1e-4, atol=2e-5)
    assert (tuned - logits_of(job.build_model(), job)).abs().max() > 1e-3


def test_singular_values_are_those_of_the_update_of_the_untouched_base():
    job = BuiltJob("bert")
    outcome = train(LoRA(rank=3, peft=PeftOptions(init_lora_weights="pissa")), job)
    weights = dict(job.build_model().named_parameters())
    found = singular_values(outcome.model)
    for name, layer in lowrank.lora_layers(outcome.model).items():
        assert start_of(layer) is not None
        update = layer.get_base_layer().weight + layer.get_delta_weight("default")
        update = (update - weights[f"{name}.weight"]).detach().double()
        expected = torch.linalg.svdvals(update)[:6]
        torch.testing.assert_close(found[name], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "start"),
    [
        (AutoLoRA, "gaussian"),
        (AutoLoRA, "eva"),
        (SaLoRA, "eva"),
        (SaLoRA, "orthogonal"),
        (SaLoRABilevel, True),
        (LoRACut, "eva"),
        (LoRACut, "orthogonal"),
        (ExampleWeights, "gaussian"),
    ],
)
def test_through_gates_and_cuts(method, start, tmp_path):
    job = BuiltJob("bert", n=64, batch_size=8)
    if method is ExampleWeights:
        object.__setattr__(job.data, "validation", job.data.examples[:16])
    options = {"start": 0.1, "end": 0.9} if method in (SaLoRA, SaLoRABilevel) else {}
    outcome = train(
        method(rank=4, peft=PeftOptions(use_rslora=True, init_lora_weights=start), **options), job
    )
    scales = lowrank.lora_scales(outcome.model)
    for name, scale in scales.items():
        rank = int(lowrank.lora_layers(outcome.model)[name].r["default"])
        assert scale == pytest.approx(16.0 / math.sqrt(rank))
    report = lowrank.export_adapter(outcome.model, tmp_path, keep=outcome.keep)
    stock = PeftModel.from_pretrained(job.stock(), str(report.compact)).eval()
    if report.cut == 0:
        torch.testing.assert_close(
            logits_of(stock, job), logits_of(outcome.model, job), rtol=1e-4, atol=2e-5
        )


def test_ranks_of_a_file_at_one_scale(tmp_path):
    job = BuiltJob("bert")
    path = tmp_path / "ranks.json"
    ranks = {name: 2 if i % 2 else 5 for i, name in enumerate(job.target_modules)}
    path.write_text(json.dumps({"ranks": ranks}))
    for start in (True, "pissa", "eva"):
        method = LoRA(
            ranks=str(path), peft=PeftOptions(use_rslora=True, init_lora_weights=start), rank=4
        )
        training = method.prepare(job, None)
        assert set(lowrank.lora_scales(training.model).values()) == {16.0 / 2}
        torch.testing.assert_close(
            logits_of(training.model, job), logits_of(job.build_model(), job), rtol=1e-4, atol=2e-5
        )
    with pytest.raises(UserError, match="orthogonal"):
        LoRA(
            ranks=str(path), peft=PeftOptions(init_lora_weights="orthogonal"), rank=4
        ).found_in_file()


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: LoRA(rank=3, peft=PeftOptions(init_lora_weights="orthogonal")), "even"),
        (lambda: LoRACut(peft=PeftOptions(init_lora_weights="pissa")), "lora_cut"),
        (lambda: AutoLoRA(peft=PeftOptions(init_lora_weights="olora")), "autolora"),
        (lambda: AutoLoRA(peft=PeftOptions(init_lora_weights="orthogonal")), "autolora"),
        (lambda: SaLoRA(peft=PeftOptions(init_lora_weights="pissa")), "salora"),
        (lambda: BiLoRA(peft=PeftOptions(use_rslora=True)), "bilora"),
        (lambda: DyLoRA(peft=PeftOptions(init_lora_weights="eva")), "dylora"),
        (lambda: DoRA(peft=PeftOptions(init_lora_weights="pissa")), "dora"),
        (lambda: PeftOptions(init_lora_weights="corda"), "init_lora_weights"),
        (lambda: PeftOptions(init_lora_weights=False), "init_lora_weights"),
        (
            lambda: LoRA(
                peft=PeftOptions(init_lora_weights="pissa"),
                settings=ModuleSettings(scale={"x": 2.0}),
            ),
            "scale",
        ),
    ],
)
def test_what_does_not_go_together(make, word):
    with pytest.raises(UserError, match=word):
        make()


def test_a_moved_start_has_no_component_to_cut(tmp_path):
    job = BuiltJob("bert")
    outcome = train(LoRA(rank=2, peft=PeftOptions(init_lora_weights="pissa")), job)
    keep = {name: torch.ones(4, dtype=torch.bool) for name in lowrank.lora_layers(outcome.model)}
    with pytest.raises(UserError, match="pissa"):
        lowrank.export_adapter(outcome.model, tmp_path, keep=keep)
