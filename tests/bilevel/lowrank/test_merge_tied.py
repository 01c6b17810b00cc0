"""Merging where the output layer shares the embeddings' weight: every other use of it stays."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from bilevel.errors import UserError
from bilevel.lowrank import merge, merging
from tests.experiments import writers

IDS = torch.tensor([[4, 5, 6, 7, 2]])
BATCH = {"input_ids": IDS, "labels": IDS}


def adapted(kind: str, folder: Path, **options: Any) -> PeftModel:
    """A model with a random adapter, which is in ``folder`` too."""
    model = get_peft_model(writers.model(kind), LoraConfig(r=2, **options))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return model.eval()


@pytest.mark.filterwarnings("ignore:Model (has|with) `tie_word_embeddings")
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gpt2", {"target_modules": ["lm_head"]}),
        ("gpt2", {"target_modules": ["wte"]}),
        ("gpt2", {"target_modules": ["c_attn"], "modules_to_save": ["lm_head"]}),
        ("gpt2", {"target_modules": ["c_attn"], "modules_to_save": ["wte"]}),
        ("bart", {"target_modules": ["lm_head"]}),
        ("bart", {"target_modules": ["embed_tokens"]}),
        ("bart", {"target_modules": ["decoder.embed_tokens", "q_proj"]}),
        ("t5", {"target_modules": ["lm_head"]}),
        ("t5", {"target_modules": ["encoder.embed_tokens"]}),
        ("t5", {"target_modules": ["q"], "modules_to_save": ["lm_head"]}),
    ],
)
def test_the_files_of_a_merged_model_give_the_adapters_logits(
    kind: str, options: dict[str, Any], tmp_path: Path
) -> None:
    tuned = adapted(kind, tmp_path / "adapter", **options)
    base = writers.model(kind)
    expected, plain = merging.logits(tuned, BATCH), merging.logits(base, BATCH)
    assert (expected - plain).abs().max() > 1e-2
    merged, difference = merge(tmp_path / "adapter", base, [BATCH])
    assert difference < 1e-4
    merged.save_pretrained(tmp_path / "merged")
    again = type(base).from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(merging.logits(again, BATCH), expected, rtol=0, atol=1e-4)
    # and the base is as it was
    assert torch.equal(merging.logits(base, BATCH), plain)
    assert base.config.tie_word_embeddings


def test_what_the_adapter_does_not_touch_stays_tied(tmp_path: Path) -> None:
    adapted("gpt2", tmp_path / "adapter", target_modules=["c_attn"])
    merged: Any = merge(tmp_path / "adapter", writers.model("gpt2"), [BATCH])[0]
    assert merged.config.tie_word_embeddings
    assert merged.lm_head.weight is merged.transformer.wte.weight


@pytest.mark.parametrize("wrong", [1.0, float("nan")])
def test_a_difference_above_the_tolerance_is_refused(
    wrong: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = adapted("gpt2", tmp_path / "adapter", target_modules=["c_attn"])
    size = merging.logits(tuned, BATCH).abs().max().item()
    merging.check_difference(0.9 * merging.TOLERANCE * size, [torch.tensor([size])], "x")
    monkeypatch.setattr(merging, "largest_difference", lambda *_: wrong)
    with pytest.raises(UserError, match=r"merging changed the logits.*tolerance"):
        merge(tmp_path / "adapter", writers.model("gpt2"), [BATCH])
