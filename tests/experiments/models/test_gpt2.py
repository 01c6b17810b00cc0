"""A whole run of a tiny GPT-2: split for training, saved for the stock model."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer, GPT2Config, GPT2Model

from experiments import evaluate, export
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.training.job import execute

PARTS = [f"transformer.h.{layer}.attn.c_attn.{part}" for layer in range(2) for part in "qv"]


@pytest.fixture(scope="module")
def gpt2(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer GPT-2 with the tiny BERT's tokenizer."""
    folder = tmp_path_factory.mktemp("gpt2")
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_positions=48,
        bos_token_id=2,
        eos_token_id=3,
    )
    GPT2Model(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def finished(gpt2: Path, quick: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished AutoLoRA run with differing ranks: an upper level in a hurry."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    words = [*quick, f"model.pretrained={gpt2}", "method.upper.lr=0.1", "run.figures=false"]
    execute(Plan.of(compose_config(words)), folder)
    return folder


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def test_query_and_value_have_ranks_of_their_own(finished):
    found = result(finished)
    assert list(found["ranks"]) == PARTS
    assert len(set(found["ranks"].values())) > 1
    # a component of one part: a row of 32 and a column of 32
    assert found["adapter_parameters"] == 64 * sum(found["ranks"].values())
    assert set(found["update"]) == {"transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn"}


@pytest.mark.parametrize("layout", ["adapter", "adapter_compact"])
def test_stock_peft_on_the_stock_model_scores_as_reported(finished, gpt2, layout):
    # the head's weights are the adapter's, so those of this base do not matter
    base = AutoModelForSequenceClassification.from_pretrained(gpt2, num_labels=2)
    model = PeftModel.from_pretrained(base, finished / layout).eval()
    assert {n for n, m in base.named_modules() if hasattr(m, "lora_A")} == {
        f"transformer.h.{layer}.attn.c_attn" for layer in range(2)
    }
    tokenizer = AutoTokenizer.from_pretrained(gpt2)
    model.config.pad_token_id = tokenizer.pad_token_id
    task = Plan.of(compose_config(["task=demo", "task.max_test=80", "task.max_train=96"])).task
    rows = task.load().tests["test"]
    batch = tokenizer([r.texts[0] for r in rows], padding=True, return_tensors="pt")
    batch.pop("token_type_ids", None)
    with torch.no_grad():
        predicted = model(**batch).logits.argmax(-1)
    right = predicted == torch.tensor([r.label for r in rows])
    assert right.float().mean().item() == pytest.approx(result(finished)["metrics"]["accuracy"])


def test_exported_and_scored_again(finished, tmp_path, capsys):
    evaluate.main([f"run={finished}"])
    said = capsys.readouterr().out
    accuracy = result(finished)["metrics"]["accuracy"]
    assert f"{accuracy:.6g}   (its result.json says {accuracy:.6g})" in said
    export.main([f"run={finished}", f"out={tmp_path}"])
    said = capsys.readouterr().out
    assert f"{result(finished)['adapter_parameters']:,} adapter" in said
    evaluate.main([f"run={finished}", f"adapter={tmp_path / 'adapter_compact'}"])
    assert f"accuracy             {accuracy:.6g}" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["delta_lora", "adalora"])
def test_methods_that_rebuild_plain_lora(gpt2, quick, tmp_path, method):
    """Their training form is another, and what they leave is put together all the same."""
    words = [*quick, f"model.pretrained={gpt2}", f"method={method}", "run.figures=false"]
    found = execute(Plan.of(compose_config([*words, "train.epochs=1"])), tmp_path)
    assert {name.rsplit(".", 1)[-1] for name in found["ranks"]} >= {"q", "v"}
    base = AutoModelForSequenceClassification.from_pretrained(gpt2, num_labels=2)
    PeftModel.from_pretrained(base, tmp_path / "adapter_compact")
    layers = {n for n, m in base.named_modules() if hasattr(m, "lora_A")}
    assert "transformer.h.0.attn.c_attn" in layers


def test_a_method_that_leaves_no_plain_lora_keeps_the_fused_map(gpt2, quick, tmp_path):
    words = [*quick, f"model.pretrained={gpt2}", "method=dora", "run.figures=false"]
    found = execute(Plan.of(compose_config([*words, "train.epochs=1"])), tmp_path)
    assert list(found["ranks"]) == [f"transformer.h.{layer}.attn.c_attn" for layer in range(2)]


def test_full_fine_tuning_of_query_and_value_alone(gpt2, quick, tmp_path):
    words = [*quick, "method=full_qv", f"model.pretrained={gpt2}", "method.optimizer.lr=0.01"]
    words = [word for word in words if not word.startswith(("method.upper", "method.rank"))]
    execute(Plan.of(compose_config([*words, "run.figures=false"])), tmp_path / "run")
    found = result(tmp_path / "run")
    assert found["trainable_parameters"] == 2 * 2 * 32 * 32 + 2 * 32  # q, v of two layers; head
    before = GPT2Model.from_pretrained(gpt2).state_dict()
    after = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model")
    assert type(after.transformer.h[0].attn.c_attn).__name__ == "Conv1D"
    for name, old in before.items():
        new = after.transformer.state_dict()[name]
        if name.endswith("c_attn.weight"):
            q, k, v = (
                torch.equal(a, b) for a, b in zip(old.chunk(3, 1), new.chunk(3, 1), strict=True)
            )
            assert (q, k, v) == (False, True, False)
        else:
            assert torch.equal(old, new), name
