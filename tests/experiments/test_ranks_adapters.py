"""``experiments.ranks`` on adapters that others have trained, of every kind that it takes."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from experiments import ranks
from tests.experiments import writers
from tests.experiments.refusals import refused

IDS = torch.tensor([[4, 5, 6, 7, 8, 9]])


def perturbed(model: PeftModel) -> PeftModel:
    """The model with an update that is not zero."""
    torch.manual_seed(1)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(p, std=0.3)
    return model


def saved(
    model: Any, folder: Path, change: Callable[[dict[str, Any]], None] | None = None, **lora: Any
) -> PeftModel:
    """An adapter with an update that is not zero, written by PEFT."""
    options = {"r": 4, "lora_alpha": 8, **lora}
    adapted = perturbed(get_peft_model(model, LoraConfig(**options))).eval()
    adapted.save_pretrained(str(folder))
    if change is not None:
        path = folder / "adapter_config.json"
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))
    return adapted


def logits(model: nn.Module, ids: Tensor = IDS, **more: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=ids, **more).logits


@pytest.mark.parametrize("labels", [1, 2, 3])
def test_classes(labels: int, tiny: Path, tmp_path: Path) -> None:
    def base() -> Any:
        torch.manual_seed(0)
        kind = AutoModelForSequenceClassification
        return kind.from_pretrained(tiny, num_labels=labels)

    whole = saved(
        base(), tmp_path / "a", task_type="SEQ_CLS", target_modules=["query", "value", "dense"]
    )
    expected = logits(whole)
    words = [f"adapter={tmp_path / 'a'}", f"model.pretrained={tiny}"]
    ranks.main([*words, "budget=1", f"out={tmp_path / 'out'}"])
    found = PeftModel.from_pretrained(base(), str(tmp_path / "out" / "ranks" / "adapter_compact"))
    assert expected.shape == (1, labels)
    torch.testing.assert_close(logits(found), expected, rtol=0, atol=1e-5)
    ranks.main([*words, "rank=1"])  # into the adapter's own folder, which stays what it was
    torch.testing.assert_close(
        logits(PeftModel.from_pretrained(base(), str(tmp_path / "a"))), expected, rtol=0, atol=1e-5
    )
    values = json.loads((tmp_path / "a" / "ranks.json").read_text())
    assert "no record" in values["decided"]["words"]
    assert values["decided"]["decided"] is None


def test_tags_of_unequal_ranks_and_rank_stabilised(tiny: Path, tmp_path: Path) -> None:
    def base() -> Any:
        torch.manual_seed(0)
        return AutoModelForTokenClassification.from_pretrained(tiny, num_labels=5)

    options = {"rank_pattern": {"layer.1.attention.self.query": 7}, "use_rslora": True}
    options |= {"task_type": "TOKEN_CLS", "target_modules": ["query"]}
    expected = logits(saved(base(), tmp_path / "a", **options))
    words = [f"adapter={tmp_path / 'a'}", f"model.pretrained={tiny}"]
    ranks.main([*words, "budget=1", f"out={tmp_path / 'out'}"])
    values = json.loads((tmp_path / "out" / "ranks.json").read_text())
    assert sorted(values["ranks"].values()) == [4, 7]
    for layout in ("adapter", "adapter_compact"):
        found = PeftModel.from_pretrained(base(), str(tmp_path / "out" / "ranks" / layout))
        torch.testing.assert_close(logits(found), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "task_type", "targets"),
    [("gpt2", "CAUSAL_LM", ["c_attn"]), ("bart", "SEQ_2_SEQ_LM", ["q_proj", "v_proj"])],
)
def test_text(kind: str, task_type: str, targets: list[str], tmp_path: Path) -> None:
    writers.folder(tmp_path / "base", kind)
    auto: Any = AutoModelForCausalLM if kind == "gpt2" else AutoModelForSeq2SeqLM
    more = {} if kind == "gpt2" else {"decoder_input_ids": IDS}

    def base() -> Any:
        return auto.from_pretrained(tmp_path / "base")

    fused = kind == "gpt2"
    options = {"task_type": task_type, "target_modules": targets, "fan_in_fan_out": fused}
    whole = saved(base(), tmp_path / "a", **options)
    words = [f"adapter={tmp_path / 'a'}", f"model.pretrained={tmp_path / 'base'}", "rank=2"]
    ranks.main(words)
    expected: dict[str, Tensor] = {}
    for name, module in whole.named_modules():
        if hasattr(module, "lora_A"):  # the best part of rank r, by numpy's own decomposition
            key = name.removeprefix("base_model.model.")
            expected[key] = module.get_delta_weight("default").detach().double()
    values = json.loads((tmp_path / "a" / "ranks.json").read_text())
    found = PeftModel.from_pretrained(base(), str(tmp_path / "a" / "ranks" / "adapter_compact"))
    deltas = {
        name.removeprefix("base_model.model."): module.get_delta_weight("default").detach().double()
        for name, module in found.named_modules()
        if hasattr(module, "lora_A")
    }
    assert set(values["ranks"]) == set(expected)
    for name, rank in values["ranks"].items():
        U, sigma, Vh = torch.linalg.svd(expected[name], full_matrices=False)
        best = U[:, :rank] @ torch.diag(sigma[:rank]) @ Vh[:rank]
        got = deltas.get(name, torch.zeros_like(best))
        torch.testing.assert_close(got, best, rtol=0, atol=1e-5)
    assert logits(found, **more).shape == logits(base(), **more).shape


def test_without_a_task_type_the_data_must_be_told(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(AutoModel.from_pretrained(tiny), tmp_path / "a", target_modules=["query"])
    words = [f"adapter={tmp_path / 'a'}", f"model.pretrained={tiny}", "budget=0.5"]
    text = refused(ranks.main, words, capsys)
    assert "task=" in text
    assert "task_type" in text


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"use_dora": True}, "DoRA"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"peft_type": 3}, "3"),
        ({"r": "four"}, "r=four"),
        ({"auto_mapping": {"parent_library": "os"}, "loftq_config": {"x": 1}}, "loftq_config"),
        ({"corda_config": {"cache_file": "x.pt"}}, "corda_config"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
    ],
)
def test_other_adapters_are_refused_before_a_model_loads(
    change: dict[str, Any],
    part: str,
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = AutoModelForSequenceClassification.from_pretrained(tiny)
    options = {"task_type": "SEQ_CLS", "target_modules": ["query"]}
    saved(base, tmp_path / "a", lambda values: values.update(change), **options)
    monkeypatch.setattr("experiments.models.pretrained.load_weights", None)
    words = [f"adapter={tmp_path / 'a'}", f"model.pretrained={tiny}", "budget=0.5"]
    assert part in refused(ranks.main, words, capsys)


class Sprung:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, trap: Path) -> None:
        self.trap = trap

    def __reduce__(self) -> Any:
        return Path.touch, (self.trap,)


def test_a_strangers_pickle_is_not_read(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = AutoModelForSequenceClassification.from_pretrained(tiny)
    saved(base, tmp_path / "a", task_type="SEQ_CLS", target_modules=["query"])
    (tmp_path / "a" / "adapter_model.safetensors").unlink()
    bomb = pickle.dumps(Sprung(tmp_path / "sprung"))
    (tmp_path / "a" / "adapter_model.bin").write_bytes(bomb)
    words = [f"adapter={tmp_path / 'a'}", f"model.pretrained={tiny}", "budget=0.5"]
    assert "pickle" in refused(ranks.main, words, capsys)
    assert not (tmp_path / "sprung").exists()
    pickle.loads(bomb)
    assert (tmp_path / "sprung").exists(), "the trap works"
