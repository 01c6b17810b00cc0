"""Quantised bases: what is said where they cannot run, and whole searches where they can."""

import dataclasses
import itertools
import json
import warnings
from importlib.metadata import PackageNotFoundError

import pytest
import torch
import transformers as hf
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer

from bilevel import BilevelEngine
from bilevel.errors import UserError
from bilevel.hypergradient import Neumann, Penalty, Unrolled
from bilevel.lowrank import Gates, attach_gates, export_adapter, lora_layers, merge, split_fused
from experiments.answers import CLASSES, Answers
from experiments.api import finetune
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.models import bitsandbytes_package, pretrained, quantization
from experiments.models.spec import ModelSpec
from experiments.models.target_modules import target_modules
from experiments.training.job import execute
from problems.autolora import AutoLoRA
from problems.bitfit import BitFit

KINDS = ("4bit", "8bit")
INSTALLED = hf.utils.is_bitsandbytes_available()
needs_package = pytest.mark.skipif(not INSTALLED, reason="bitsandbytes is not installed")


# ---------------------------------------------------------------- messages


def test_unknown_kind():
    with pytest.raises(UserError, match=r"quantization=3bit.*4bit, 8bit"):
        ModelSpec("x", pretrained="x", quantization="3bit")


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_package_a_run_says_so_before_anything_is_loaded(monkeypatch, kind):
    def version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(bitsandbytes_package.metadata, "version", version)
    words = ["model=bert-base", f"model.quantization={kind}", "task=demo"]
    with pytest.raises(UserError, match=rf"{kind}.*package.*\[quantization\]"):
        Plan.of(compose_config(words))


def test_a_package_that_is_broken_or_too_old_is_said(monkeypatch):
    def broken(name):
        raise RuntimeError("libcudart is missing\nand more")

    monkeypatch.setattr(bitsandbytes_package.metadata, "version", lambda name: "0.45.5")
    with pytest.raises(UserError, match=r"0\.46\.1"):
        bitsandbytes_package.check_installed("4bit")
    monkeypatch.setattr(quantization.importlib, "import_module", broken)
    with pytest.raises(UserError, match=r"\[quantization\].*libcudart is missing$"):
        quantization.check_hardware("4bit")


@pytest.mark.parametrize("kind", KINDS)
def test_hardware_without_a_routine_is_said_before_weights_are_loaded(monkeypatch, tiny, kind):
    class Refusing:
        def __getattr__(self, name):
            raise NotImplementedError("no routine for this device\nand a long story")

    monkeypatch.setattr(bitsandbytes_package, "check_installed", lambda kind: None)
    monkeypatch.setattr(quantization.importlib, "import_module", lambda name: Refusing())
    monkeypatch.setattr(pretrained, "load_weights", lambda *_: pytest.fail("weights were loaded"))
    spec = ModelSpec("x", pretrained=str(tiny), quantization=kind)
    with pytest.raises(UserError, match=rf"{kind}.*no routine for this device$"):
        spec.load(Answers(CLASSES, 2), 0)


@pytest.mark.parametrize("method", ["full", "full_qv", "bitfit"])
def test_methods_that_train_the_weights_refuse_packed_ones(monkeypatch, method):
    monkeypatch.setattr(bitsandbytes_package, "check_installed", lambda kind: None)
    words = [f"method={method}", "task=demo", "model=demo", "model.quantization=4bit"]
    with pytest.raises(UserError, match=f"method {method} .*quantised"):
        Plan.of(compose_config(words))


@pytest.mark.parametrize("method", ["dora", "bidora"])
def test_methods_that_read_the_weights_refuse_8_bits_without_a_gpu(monkeypatch, method):
    monkeypatch.setattr(bitsandbytes_package, "check_installed", lambda kind: None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    words = [f"method={method}", "task=demo", "model=demo"]
    with pytest.raises(UserError, match=r"GPU.*model\.quantization=4bit"):
        Plan.of(compose_config([*words, "model.quantization=8bit"]))
    Plan.of(compose_config([*words, "model.quantization=4bit"]))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    Plan.of(compose_config([*words, "model.quantization=8bit"]))


# ---------------------------------------------------------------- where it runs


@pytest.fixture(params=KINDS)
def spec(request, tiny) -> ModelSpec:
    return ModelSpec("x", pretrained=str(tiny), quantization=request.param)


def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 20, (4, 7), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "labels": torch.tensor([0, 1, 0, 1])}


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=batch()["input_ids"]).logits


def lora(loaded, r=4) -> PeftModel:
    model = get_peft_model(
        loaded.model,
        LoraConfig(
            r=r,
            target_modules=target_modules(loaded.model, "qv"),
            modules_to_save=loaded.head_modules,
        ),
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    return model


@needs_package
def test_only_the_layers_are_quantised(spec, tiny):
    loaded = spec.load(Answers(CLASSES, 2), 0)
    plain = ModelSpec("x", pretrained=str(tiny)).load(Answers(CLASSES, 2), 0)
    assert loaded.head_modules == plain.head_modules == ["classifier"]
    for name, module in plain.model.named_modules():
        if isinstance(module, torch.nn.Linear):
            there = type(loaded.model.get_submodule(name)).__name__
            packed = {"4bit": "Linear4bit", "8bit": "Linear8bitLt"}[spec.quantization]
            assert there == (packed if ".layer." in name else "Linear")
    assert torch.equal(loaded.model.classifier.weight, plain.model.classifier.weight)
    difference = (logits(loaded.model) - logits(plain.model)).abs().max()
    assert 0 < difference < 0.1 * logits(plain.model).abs().max()


@needs_package
def test_gates_train_through_a_quantised_base_after_an_evaluation_too(spec):
    torch.manual_seed(2)
    model = lora(spec.load(Answers(CLASSES, 2), 0))
    layers = lora_layers(model)
    assert len(layers) == 4
    assert all(type(layer).__module__ == "peft.tuners.lora.bnb" for layer in layers.values())
    assert all(isinstance(layer, LoraLayer) for layer in layers.values())
    gates = Gates(list(layers), 4, "sigmoid")
    attach_gates(model, gates)
    first = model(**batch()).loss
    logits(model)  # bitsandbytes may repack its weights for inference here
    model.train(False)
    again = model(**batch()).loss
    torch.testing.assert_close(again, first, rtol=0, atol=1e-2)
    (gradient,) = torch.autograd.grad(again, [gates.logits])
    assert (gradient != 0).all()
    if spec.quantization == "8bit":  # it rounds the activations: its loss has steps, no slope
        return
    # The first layer's passes through all the other quantised layers.
    start, step = gates.logits.detach().clone(), 0.5
    for index in ((1, 0), (3, 2)):  # values; a change of the queries hardly moves this loss
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                gates.logits.copy_(start)
                gates.logits[index] += sign * step
                losses.append(float(model(**batch()).loss))
        expected = (losses[0] - losses[1]) / (2 * step)
        assert float(gradient[index]) == pytest.approx(expected, rel=0.05)


@needs_package
def test_an_export_reads_back_on_quantised_and_on_full_bases(spec, tiny, tmp_path):
    model = lora(spec.load(Answers(CLASSES, 2), 0))
    gates = Gates(list(lora_layers(model)), 4, "softmax")
    attach_gates(model, gates)
    torch.nn.init.normal_(gates.logits)
    expected = logits(model)
    report = export_adapter(model, tmp_path)
    full = ModelSpec("x", pretrained=str(tiny)).load(Answers(CLASSES, 2), 0).model
    for folder in (report.adapter, report.compact):
        base = spec.load(Answers(CLASSES, 2), 0).model
        tolerance = 1e-5 if spec.quantization == "4bit" else 1e-3  # int8 rounds activations
        reread = PeftModel.from_pretrained(base, folder)
        torch.testing.assert_close(logits(reread), expected, rtol=0, atol=tolerance)
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["fan_in_fan_out"] is False
    near = logits(PeftModel.from_pretrained(full, report.compact))
    torch.testing.assert_close(near, expected, rtol=0, atol=0.1)
    with pytest.raises(UserError, match=r"quantised.*merge"):
        merge(report.compact, spec.load(Answers(CLASSES, 2), 0).model)


@needs_package
def test_a_whole_run_interrupted_and_resumed(spec, quick, tmp_path, monkeypatch):
    words = [*quick, f"model.quantization={spec.quantization}", "run.figures=false"]
    plan = Plan.of(compose_config([*words, "method.roll_back=true"]))
    found = execute(plan, tmp_path / "run")
    original, calls = BilevelEngine.train_step, itertools.count()

    def interrupted(engine):
        if next(calls) == 7:
            raise KeyboardInterrupt
        original(engine)

    monkeypatch.setattr(BilevelEngine, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute(plan, tmp_path / "resumed")
    monkeypatch.setattr(BilevelEngine, "train_step", original)
    resumed = execute(dataclasses.replace(plan, resume=True), tmp_path / "resumed")
    for key in ("ranks", "metrics", "test_loss", "train_loss", "validation_loss"):
        assert resumed[key] == found[key]
    assert len(found["ranks"]) == 4
    assert all(1 <= rank <= 4 for rank in found["ranks"].values())
    assert found["update"] is None
    assert found["adapter_parameters"] == 64 * sum(found["ranks"].values())
    assert found["train_loss"] < 0.75


@needs_package
def test_dora_reads_a_quantised_weight(quick, tmp_path):
    # 8bit: on the CPU, PEFT's DoRA moves the weight and bitsandbytes loses its scales by that
    words = [*quick, "method=dora", "model.quantization=4bit"]
    words += ["run.figures=false", "train.epochs=1"]
    found = execute(Plan.of(compose_config(words)), tmp_path / "run")
    assert len(found["ranks"]) == 4


@needs_package
def test_delta_lora_moves_a_quantised_weight_by_its_factors(spec, quick, tmp_path):
    words = [*quick, "method=delta_lora", f"model.quantization={spec.quantization}"]
    words += ["run.figures=false", "train.epochs=1", "method.start_step=4"]
    found = execute(Plan.of(compose_config(words)), tmp_path / "run")
    assert set(found["ranks"].values()) == {8}  # twice the rank: the weight did move
    plan = Plan.of(compose_config([*words, "method.mode=in_place"]))
    with pytest.raises(UserError, match=r"quantised.*method\.mode=factored"):
        execute(plan, tmp_path / "other")


@needs_package
@pytest.mark.parametrize("estimator", [Neumann(), Unrolled(), Penalty()], ids=lambda e: e.name)
def test_estimators_of_second_and_of_first_order(tiny, quick, tmp_path, estimator):
    words = [*quick, "model.quantization=4bit", f"hypergradient={estimator.name}"]
    words += ["run.figures=false", "train.max_steps=3"]
    found = execute(Plan.of(compose_config(words)), tmp_path / "run")
    assert found["hypergradient"]["name"] == estimator.name


@needs_package
def test_a_given_quantised_model(spec):
    loaded = spec.load(Answers(CLASSES, 2), 0)
    rows = [{"input_ids": torch.randint(5, 20, (6,)).tolist(), "labels": i % 2} for i in range(16)]
    run = finetune(
        loaded.model,
        loaded.tokenizer,
        {"train": rows, "test": rows},
        AutoLoRA(rank=2),
        epochs=1,
        batch_size=4,
    )
    assert run.model.get_base_model().is_quantized
    assert list(run.result["ranks"]) == target_modules(loaded.model, "qv")
    with pytest.raises(UserError, match="quantised"):
        finetune(loaded.model, loaded.tokenizer, {"train": rows, "test": rows}, BitFit())


@needs_package
def test_gpt2_keeps_its_fused_projection_in_full(spec, tmp_path):
    torch.manual_seed(0)
    config = hf.GPT2Config(
        n_embd=32, n_layer=2, n_head=2, vocab_size=300, bos_token_id=1, eos_token_id=1
    )
    hf.GPT2Model(config).save_pretrained(tmp_path)
    hf.AutoTokenizer.from_pretrained(spec.pretrained).save_pretrained(tmp_path)
    loaded = ModelSpec("x", pretrained=str(tmp_path), quantization=spec.quantization).load(
        Answers(CLASSES, 2), 0
    )
    block = loaded.model.transformer.h[0]
    assert type(block.attn.c_attn).__name__ == "Conv1D"
    assert type(block.mlp.c_fc).__name__.startswith("Linear")
    assert not block.mlp.c_fc.weight.is_floating_point()
    before = logits(loaded.model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        split_fused(loaded.model)
    torch.testing.assert_close(logits(loaded.model), before, rtol=0, atol=1e-3)
    assert [n.rsplit(".", 1)[-1] for n in target_modules(loaded.model, "qv")] == ["q", "v"] * 2
