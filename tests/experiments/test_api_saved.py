"""What ``finetune(...).save(folder)`` leaves stands by itself."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from bilevel.errors import UserError
from experiments import Decoding
from experiments.api import finetune
from problems import FullFineTuning, LoRA
from tests.experiments import architectures
from tests.experiments.artefacts import cards

SMALL: dict[str, Any] = {"max_steps": 2, "batch_size": 4, "engine": {"precision": "fp32"}}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    architectures.save("bert", folder / "base")
    architectures.save("gpt2", folder / "writer", text=True)
    return folder


@pytest.mark.parametrize("method", [LoRA(rank=2), FullFineTuning()])
def test_three_classes(method: Any, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    model = AutoModelForSequenceClassification.from_pretrained(
        "base", num_labels=3, ignore_mismatched_sizes=True, id2label={0: "x", 1: "y", 2: "z"}
    )
    tokenizer = architectures.tokenizer()
    rows = [{**tokenizer(f"w{i} w{i + 1}"), "labels": i % 3} for i in range(12)]
    run = finetune(model, tokenizer, {"train": rows, "test": rows}, method, **SMALL)
    folder = run.save(f"out/{method.name}")
    assert folder.parent == Path(f"out/{method.name}")
    (code,) = cards.blocks(folder)
    scope, printed = cards.run(code.replace("A text.", "w3 w4"), here)
    (answer,) = run.predict(["w3 w4"])
    if method.name == "lora":
        assert scope["probabilities"][0].tolist() == pytest.approx(
            list(answer["probabilities"].values()), abs=2e-6
        )
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == "base"
    assert answer["prediction"] in printed
    with pytest.raises(UserError, match="is there already"):
        run.save(f"out/{method.name}")
    if method.name == "lora":
        named = run.save("out/named", base="some/bert")
        assert cards.card(named).data.base_model == "some/bert"
        with pytest.raises(UserError, match="base="):
            run.save("out/unnamed", base="/no/such/folder")
        assert not Path("out/unnamed").exists()


def test_a_pooler_that_the_checkpoint_lacks_is_saved(here: Path) -> None:
    """It is drawn anew whenever the checkpoint is loaded."""
    folder = here / "no_pooler"
    shutil.copytree(here / "base", folder)
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "pooler" not in name}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    loads = partial(AutoModelForSequenceClassification.from_pretrained, folder, num_labels=2)
    tokenizer = architectures.tokenizer()
    rows = [{**tokenizer(f"w{i} w{i + 1}"), "labels": i % 2} for i in range(12)]
    run = finetune(loads(), tokenizer, {"train": rows, "test": rows}, LoRA(rank=2), **SMALL)
    saved = run.save(here / "with_pooler")
    texts = tokenizer(["w3 w4", "w5"], return_tensors="pt", padding=True)
    wanted = run.model(**texts).logits
    for seed in (1, 2):
        torch.manual_seed(seed)
        found = PeftModel.from_pretrained(loads(), saved).eval()(**texts).logits
        torch.testing.assert_close(found, wanted)


def test_text(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    model, tokenizer = AutoModelForCausalLM.from_pretrained("writer"), architectures.tokenizer()
    rows = [
        {"input_ids": [4 + i, 5 + i, 6 + i, 2], "labels": [-100, -100, 6 + i, 2]} for i in range(8)
    ]
    data = {"train": rows, "test": rows}
    few = Decoding(max_new_tokens=3)
    run = finetune(model, tokenizer, data, LoRA(rank=2), decoding=few, **SMALL)
    (code,) = cards.blocks(run.save("out/text"))
    scope, _ = cards.run(code.replace("A text.", "w3 w4"), here)
    assert scope["ids"] == [7, 8]  # the caller's own tokens, and nothing behind them
    with torch.no_grad():
        given = torch.tensor([[7, 8]])
        first = run.model(input_ids=given).logits[0, -1].argmax()
    assert scope["tokens"][0, 2] == first
    assert scope["tokens"].shape[1] <= 5
