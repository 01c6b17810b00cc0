"""``experiments.ranks adapter=DIR`` on adapters made with other people's options, or damaged."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from bilevel.lowrank import adapter_options
from experiments import ranks
from tests.experiments import writers
from tests.experiments.refusals import refused

IDS = torch.tensor([[4, 5, 6, 7, 8, 9]])
QUERY = "base_model.model.bert.encoder.layer.0.attention.self.query"
Change = Callable[[dict[str, Any]], None]


def base(tiny: Path) -> Any:
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_pretrained(tiny)


def save(model: Any, folder: Path, **lora: Any) -> PeftModel:
    """An adapter whose trained parameters are all other than at their start."""
    options = {"r": 4, "lora_alpha": 8, "target_modules": ["query", "value"], **lora}
    adapted = get_peft_model(model, LoraConfig(**options)).eval()
    torch.manual_seed(1)
    for p in adapted.parameters():
        if p.requires_grad:
            nn.init.normal_(p, std=0.2)
    adapted.save_pretrained(str(folder))
    return adapted


def configured(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def weighted(folder: Path, change: Change) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file({name: t.contiguous() for name, t in tensors.items()}, path, {"format": "pt"})


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(input_ids=IDS).logits
    return found


@pytest.fixture(scope="module")
def made(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    save(base(tiny), folder, task_type="SEQ_CLS")
    return folder


@pytest.fixture
def adapter(made: Path, tmp_path: Path) -> Path:
    """A copy, without its base model's path."""
    folder = tmp_path / "a"
    folder.mkdir()
    for path in made.glob("adapter_*"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def words(adapter: Path, tiny: Path) -> list[str]:
    return [f"adapter={adapter}", f"model.pretrained={tiny}", "budget=1"]


# -- what it takes


@pytest.mark.parametrize(
    "options",
    [
        {"bias": "all"},
        {"bias": "lora_only"},
        {"target_modules": r"(bert\.)?encoder\.layer\.(0|1)+\.attention\.self\.(query|value)"},
        {"target_modules": "all-linear", "exclude_modules": ["pooler.dense"]},
        {"rank_pattern": {r"layer\.1\..*query": 2}, "alpha_pattern": {"^bert.*value": 3.5}},
        {"layers_to_transform": [1], "modules_to_save": ["pooler", "classifier"]},
        {"init_lora_weights": "eva"},
        {"init_lora_weights": "orthogonal", "use_rslora": True, "fan_in_fan_out": True},
    ],
    ids=str,
)
def test_options_of_others(options: dict[str, Any], tiny: Path, tmp_path: Path) -> None:
    expected = logits(save(base(tiny), tmp_path / "a", task_type="SEQ_CLS", **options))
    ranks.main([*words(tmp_path / "a", tiny), f"out={tmp_path / 'out'}"])
    for layout in ("adapter", "adapter_compact"):
        found = PeftModel.from_pretrained(base(tiny), str(tmp_path / "out" / "ranks" / layout))
        torch.testing.assert_close(logits(found), expected, rtol=0, atol=1e-5)


def test_embeddings_saved_beside_an_adapter_are_the_models_own(tmp_path: Path) -> None:
    """As PEFT saves them, where the output layer is among the targets."""
    writers.folder(tmp_path / "base", "gpt2")

    def text() -> Any:
        return AutoModelForCausalLM.from_pretrained(tmp_path / "base")

    adapter = tmp_path / "a"
    options = {"task_type": "CAUSAL_LM", "target_modules": ["lm_head"]}
    expected = logits(save(text(), adapter, **options))
    name = "base_model.model.lm_head.base_layer.weight"
    assert name in load_file(adapter / "adapter_model.safetensors")
    ranks.main(words(adapter, tmp_path / "base"))
    found = PeftModel.from_pretrained(text(), str(adapter / "ranks" / "adapter_compact"))
    torch.testing.assert_close(logits(found), expected, rtol=0, atol=1e-5)


# -- what it refuses before a model is loaded

VALUES: dict[str, tuple[dict[str, Any], str]] = {
    "an infinite scale": ({"lora_alpha": float("inf")}, "lora_alpha=inf"),
    "a scale that is none": ({"lora_alpha": float("nan")}, "lora_alpha=nan"),
    "a scale beyond a float": ({"lora_alpha": 10**400}, "lora_alpha"),
    "a scale of True": ({"lora_alpha": True}, "lora_alpha=True"),
    "no scale": ({"lora_alpha": 0}, "lora_alpha positive"),
    "a negative one": ({"alpha_pattern": {"query": -1}}, "alpha_pattern positive"),
    "a text for a scale": ({"alpha_pattern": {"query": "2"}}, "alpha_pattern query=2"),
    "null for a scale": ({"alpha_pattern": {"query": None}}, "alpha_pattern query=None"),
    "a rank of True": ({"r": True}, "r=True"),
    "a rank of text": ({"rank_pattern": {"query": "2"}}, "rank_pattern query=2 integer"),
    "a rank of 0": ({"rank_pattern": {"query": 0}}, "rank_pattern query=0"),
    "a rank of a billion": ({"r": 10**9}, "1000000000"),
    "dropout": ({"lora_dropout": -1}, "lora_dropout=-1"),
    "dropout that is none": ({"lora_dropout": float("nan")}, "lora_dropout=nan"),
    "biases": ({"bias": "some"}, "bias=some lora_only"),
    "biases of the factors": ({"lora_bias": True}, "lora_bias"),
    "no expression": ({"target_modules": "(("}, "'((' expression"),
    "no expression in a pattern": ({"rank_pattern": {"(": 2}}, "'(' expression"),
    "no expression of layers": ({"layers_pattern": "["}, "'[' expression"),
    "a nested one": ({"target_modules": "(" * 9999}, "expression"),
    "a long one": ({"target_modules": "a" * 10001}, "10001"),
    "a number for a name": ({"exclude_modules": [1]}, "exclude_modules"),
}


@pytest.mark.parametrize("name", VALUES)
def test_values_that_no_adapter_has(
    name: str,
    adapter: Path,
    tiny: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values, parts = VALUES[name]
    configured(adapter, **values)
    monkeypatch.setattr("experiments.models.pretrained.load_weights", None)
    said = refused(ranks.main, words(adapter, tiny), capsys)
    for part in [str(adapter), *parts.split(" ")]:
        assert part in said


def convolved(tensors: dict[str, Tensor]) -> None:
    tensors[f"{QUERY}.lora_A.weight"] = tensors[f"{QUERY}.lora_A.weight"][..., None, None]


TENSORS: dict[str, tuple[Change, str]] = {
    "integers": (lambda t: t.update({k: v.int() for k, v in t.items()}), "I32"),
    "bytes": (lambda t: t.update({k: v.to(torch.int8) for k, v in t.items()}), "I8"),
    "truths": (lambda t: t.update({k: v > 0 for k, v in t.items()}), "BOOL"),
    "complex": (lambda t: t.update({k: v.to(torch.complex64) for k, v in t.items()}), "C64"),
    "no numbers": (lambda t: t[f"{QUERY}.lora_B.weight"].fill_(torch.nan), "lora_B finite"),
    "infinite": (lambda t: t["base_model.model.classifier.bias"].fill_(torch.inf), "classifier"),
    "a convolution": (convolved, "query linear"),
    "an embedding": (
        lambda t: t.update({"base_model.model.bert.e.lora_embedding_A": torch.ones(4, 9)}),
        "embedding linear",
    ),
    "no LoRA": (lambda t: [t.pop(k) for k in [*t] if "lora" in k], "no LoRA"),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_are_no_linear_factors(
    name: str,
    adapter: Path,
    tiny: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    change, parts = TENSORS[name]
    weighted(adapter, change)
    monkeypatch.setattr("experiments.models.pretrained.load_weights", None)
    said = refused(ranks.main, words(adapter, tiny), capsys)
    for part in [str(adapter), *parts.split(" ")]:
        assert part in said


# -- what it refuses once the model's names and weights are known

FOREIGN = {
    "nowhere": "base_model.model.nowhere.lora_A.weight",
    "of the base model": "base_model.model.bert.embeddings.word_embeddings.weight",
    "of an adapted layer": f"{QUERY}.base_layer.weight",
    "in no place": "classifier",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_tensors_that_are_not_the_adapters(
    name: str, adapter: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stock PEFT drops them, or puts them over the base model's, which the cut would not keep."""
    own = base(tiny).state_dict()
    key = FOREIGN[name].removeprefix("base_model.model.").replace(".base_layer", "")
    weighted(adapter, lambda tensors: tensors.update({FOREIGN[name]: own.get(key, IDS) + 1.0}))
    said = refused(ranks.main, words(adapter, tiny), capsys)
    assert f"1 of its 11 tensors are not the adapter's, e.g. {FOREIGN[name]}" in said


def test_a_target_that_was_lost(
    adapter: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configured(adapter, target_modules=["query"])
    assert "4 of its 10 tensors" in refused(ranks.main, words(adapter, tiny), capsys)


def test_a_missing_tensor_is_told_once(adapter: Path, tiny: Path) -> None:
    """By us alone, whatever PEFT warns of."""
    weighted(adapter, lambda tensors: tensors.pop(f"{QUERY}.lora_B.weight"))

    line = [sys.executable, "-m", "experiments.ranks", *words(adapter, tiny)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (said,) = done.stderr.splitlines()
    assert "lacks 1 of 10" in said


@pytest.mark.parametrize("key", ["target_modules", "rank_pattern", "modules_to_save"])
def test_an_expression_that_takes_for_ever(
    key: str,
    adapter: Path,
    tiny: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adapter_options, "SECONDS", 0.5)
    slow = ".*" * 20 + "Z"
    given = {"target_modules": slow, "rank_pattern": {slow: 2}, "modules_to_save": [slow]}
    configured(adapter, **{key: given[key]})
    said = refused(ranks.main, words(adapter, tiny), capsys)
    assert "expression" in said
    assert slow in said
