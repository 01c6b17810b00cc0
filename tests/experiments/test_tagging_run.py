"""Whole runs on tags: every kind of method, and what stock PEFT makes of the adapter."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForTokenClassification, AutoTokenizer

from bilevel.errors import UserError
from experiments.command import compose_config
from experiments.plan import Plan
from experiments.tasks.demo import Demo

METHODS = ["lora", "autolora", "adalora", "salora", "bilora", "dora", "bitfit", "ia3", "houlsby"]
METHODS += ["full", "prefix", "delta_lora", "dylora", "bidora", "salora_bilevel", "pfeiffer"]


@pytest.fixture(scope="module")
def tagged(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides of a run of a second: some words begin an entity, and the next one is in it."""
    folder = tmp_path_factory.mktemp("tagged")
    words = sorted({w for e in Demo(max_train=300).load().train for w in e.texts[0].split()})[:20]
    drawn = random.Random(0)

    def sentence() -> dict[str, list[str]]:
        tokens = [drawn.choice(words) for _ in range(6)]
        tags = ["B-A" if words.index(token) < 6 else "O" for token in tokens]
        for i in range(1, 6):
            if tags[i] == "O" and tags[i - 1] == "B-A":
                tags[i] = "I-A"
        return {"tokens": tokens, "ner_tags": tags}

    for split, size in (("train", 96), ("validation", 16), ("test", 40)):
        lines = [json.dumps(sentence()) for _ in range(size)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return [
        *("task=tagging", f"task.data_dir={folder}", "model=hub", f"model.pretrained={tiny}"),
        *("train.epochs=1", "train.batch_size=8", "train.lr=1e-2", "train.target_modules=all"),
        *("engine.precision=fp32", "engine.checkpoint_every=0", "run.figures=false"),
    ]


def run(folder: Path, overrides: list[str]) -> dict[str, Any]:
    return Plan.of(compose_config(overrides)).execute(folder)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_is_scored(method: str, tagged: list[str], tmp_path: Path) -> None:
    values = run(tmp_path / "run", [*tagged, f"method={method}"])
    assert values["primary_metric"] == "f1"
    assert 0 <= values["metrics"]["f1"] <= 1
    assert values["labels"] == ["O", "B-A", "I-A"]
    assert "seqeval" in values["metric_settings"]["f1"]


def test_prompt_tuning_is_refused(tagged: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="prompt tuning cannot tag words"):
        run(tmp_path / "run", [*tagged, "method=prompt"])


def test_a_run_learns_and_its_adapter_is_stock_peft(
    tagged: list[str], tiny: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    values = run(folder, [*tagged, "method=autolora", "method.rank=4", "train.epochs=6"])
    assert values["metrics"]["f1"] > 0.8
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert config["task_type"] == "TOKEN_CLS"
    words = ["a", "the", "movie"]
    inputs = AutoTokenizer.from_pretrained(tiny)(
        [words], is_split_into_words=True, return_tensors="pt"
    )
    logits = []
    for name in ("adapter", "adapter_compact"):
        torch.manual_seed(1)  # another head than the run's: the adapter brings its own
        base = AutoModelForTokenClassification.from_pretrained(tiny, num_labels=3)
        model = PeftModel.from_pretrained(base, str(folder / name)).eval()
        with torch.no_grad():
            logits.append(model(**inputs).logits)
    assert logits[0].shape == (1, len(words) + 2, 3)
    torch.testing.assert_close(*logits, atol=1e-5, rtol=0)
