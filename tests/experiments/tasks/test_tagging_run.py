"""Whole runs on tags: every kind of method, and what stock PEFT makes of the adapter."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForTokenClassification

from bilevel.errors import UserError
from bilevel.lowrank import export_adapter
from experiments.answers import TAGS, Answers
from experiments.comparing import predictions
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.models.spec import ModelSpec
from experiments.tasks.demo import Demo
from experiments.training.job import execute

METHODS = ["lora", "autolora", "adalora", "salora", "bilora", "dora", "bitfit", "ia3", "houlsby"]
METHODS += ["full", "prefix", "delta_lora", "dylora", "bidora", "salora_bilevel", "pfeiffer"]


@pytest.fixture(scope="module")
def tagged(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides of a run of a second: each word has a tag of its own."""
    folder = tmp_path_factory.mktemp("tagged")
    words = sorted({w for e in Demo(max_train=300).load().train for w in e.texts[0].split()})[:20]
    drawn = random.Random(0)

    def sentence() -> dict[str, list[str]]:
        tokens, tags = [], []
        for _ in range(4):
            if drawn.random() < 0.5:
                tokens += [drawn.choice(words[:6]), drawn.choice(words[6:12])]
                tags += ["B-A", "I-A"]
            else:
                tokens.append(drawn.choice(words[12:]))
                tags.append("O")
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
    return execute(Plan.of(compose_config(overrides)), folder)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_is_scored(method: str, tagged: list[str], tmp_path: Path) -> None:
    values = run(tmp_path / "run", [*tagged, f"method={method}"])
    assert values["primary_metric"] == "f1"
    assert 0 <= values["metrics"]["f1"] <= 1
    assert values["labels"] == ["O", "B-A", "I-A"]
    assert "seqeval" in values["metric_settings"]["f1"]


def test_prompt_tuning_is_refused(tagged: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"prompt.*tag"):
        run(tmp_path / "run", [*tagged, "method=prompt"])


def test_a_run_learns_and_leaves_adapters_for_token_classification(
    tagged: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    values = run(folder, [*tagged, "method=lora", "train.epochs=8", "model.dropout=0.0"])
    assert values["metrics"]["f1"] > 0.8
    # one type alone: its scores are those of all
    only = values["entities"]["A"]
    assert [only[name] for name in ("f1", "precision", "recall")] == pytest.approx(
        [values["metrics"][name] for name in ("f1", "precision", "recall")]
    )
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert [row["test"] for row in rows] == ["test"] * 40
    assert sum(tag == "B-A" for row in rows for tag in row["tags"]) == only["support"]
    assert all(len(row["words"]) == len(row["tags"]) == len(row["prediction"]) for row in rows)
    assert [row["terms"] for row in rows] == [len(row["words"]) for row in rows]
    read = predictions.read(folder, values)
    assert read.loss.value == pytest.approx(values["test_loss"], abs=1e-5)
    assert read.scores["f1"].value == pytest.approx(values["metrics"]["f1"], abs=1e-9)
    for name in ("adapter", "adapter_compact"):
        config = json.loads((folder / name / "adapter_config.json").read_text())
        assert config["task_type"] == "TOKEN_CLS"


def test_exported_adapters_have_the_same_logits_in_stock_peft(tiny: Path, tmp_path: Path) -> None:
    answers = Answers(TAGS, 3, ("O", "B-A", "I-A"))
    loaded = ModelSpec("x", pretrained=str(tiny)).load(answers, 0)
    assert loaded.model.config.id2label == {0: "O", 1: "B-A", 2: "I-A"}
    options = {"task_type": loaded.task_type, "modules_to_save": loaded.head_modules}
    model = get_peft_model(
        loaded.model,
        LoraConfig(r=3, target_modules=["query", "value"], init_lora_weights=False, **options),
    ).eval()
    words = ["a", "the", "movie"]
    inputs = loaded.tokenizer([words], is_split_into_words=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
    report = export_adapter(model, tmp_path)
    for folder in (report.adapter, report.compact):
        # another head than the model's: the adapter brings its own
        base = AutoModelForTokenClassification.from_pretrained(tiny, num_labels=3)
        found = PeftModel.from_pretrained(base, str(folder)).eval()
        with torch.no_grad():
            torch.testing.assert_close(found(**inputs).logits, logits, atol=1e-5, rtol=0)
