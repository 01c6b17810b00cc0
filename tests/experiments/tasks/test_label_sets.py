"""Several labels a text: read, trained by binary cross-entropy, scored, evaluated, exported."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from bilevel.errors import UserError
from experiments import evaluate, export
from experiments.answers import LABELS, Answers
from experiments.api import finetune
from experiments.models.spec import ModelSpec
from experiments.results import record
from experiments.results.labels import matched
from experiments.run import main
from experiments.tasks.classification import Classification
from problems import LoRA

LABEL_SETS = [["a"], ["b", "a"], [], ["c"]]


def written(folder: Path, suffix: str = ".jsonl", sets: Any = LABEL_SETS, times: int = 1) -> str:
    folder.mkdir(exist_ok=True)
    for split in ("train", "test"):
        rows = [{"text": "the film was great", "label": labels} for labels in sets * times]
        if suffix == ".jsonl":
            text = "\n".join(map(json.dumps, rows))
        else:
            text = "text,label\n" + "".join(f"{r['text']},{';'.join(r['label'])}\n" for r in rows)
        (folder / f"{split}{suffix}").write_text(text)
    return str(folder)


def task(path: str, **options: Any) -> Any:
    options = {"text_columns": ("text",), "multi_label": True, **options}
    return Classification(data_dir=path, **options).load()


@pytest.mark.parametrize(("suffix", "apart"), [(".jsonl", None), (".csv", ";")])
def test_lists_and_separators_mean_the_same(tmp_path: Path, suffix: str, apart: Any) -> None:
    data = task(written(tmp_path, suffix), label_separator=apart)
    assert data.answers == Answers(LABELS, 3, ("a", "b", "c"))
    assert [e.labels for e in data.train] == [(0,), (0, 1), (), (2,)]
    assert data.stratify(data.train) is None


def test_scores_by_hand(tmp_path: Path) -> None:
    data = task(written(tmp_path))
    said = [[1, -1, -1], [1, -1, -1], [-1, -1, -1], [1, -1, 1]]  # of 4 labels 3 right, one too many
    predictions = {"test": [np.array(row, np.float32) for row in said]}
    scores = data.score(predictions)
    assert scores["micro_f1"] == pytest.approx(2 * 3 / (4 + 4))
    assert scores["macro_f1"] == pytest.approx((2 * 2 / (2 + 3) + 0 + 1) / 3)
    assert scores["exact_match"] == pytest.approx(2 / 4)
    rows = data.records(predictions["test"], data.tests["test"])
    assert (rows[1]["label"], rows[3]["prediction"]) == (["a", "b"], ["a", "c"])
    logits = torch.tensor([[0.3, -2.0, 1.0], [0.0, 0.5, -1.0]])
    labels = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    total, count = data.losses(type("O", (), {"logits": logits}), {"labels": labels})
    p = torch.sigmoid(logits)
    assert count == 6
    by_hand = -(labels * p.log() + (1 - labels) * (1 - p).log()).sum()
    assert total == pytest.approx(float(by_hand), abs=1e-5)


def test_labels_of_other_data_are_matched_by_name(tmp_path: Path) -> None:
    data = task(written(tmp_path, sets=[["c"], ["b"], ["c", "b"]]))
    run = {"kind": LABELS, "labels": ["a", "b", "c"]}
    found = matched(data, run, "RUN")
    assert [e.labels for e in found.tests["test"]] == [(2,), (1,), (1, 2)]
    with pytest.raises(UserError, match=r"labels c, which.*a, b"):
        matched(data, {"kind": LABELS, "labels": ["a", "b"]}, "RUN")


def test_a_list_without_the_option_says_which(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a list.*multi_label=true"):
        task(written(tmp_path), multi_label=False)


@pytest.mark.parametrize(
    ("sets", "options", "words"),
    [
        (["a;b", "c"], {}, r"'label'.*label_separator"),
        ([["a"], {"b": 1}], {}, r"an object.*multi_label"),
        ([["a"], None], {}, r"'label'.*list"),
        ([["a"], ["a"]], {}, "two different labels"),
        ([["a"], [["b"]]], {}, "a list"),
        (LABEL_SETS, {"metrics": ("accuracy",)}, r"'accuracy'.*micro_f1"),
        (LABEL_SETS, {"regression": True}, r"regression.*multi_label"),
        (
            LABEL_SETS,
            {"multi_label": False, "label_separator": ";"},
            r"separator.*multi_label",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, sets: Any, options: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        task(written(tmp_path, sets=sets), **options)


def test_the_model_has_a_loss_of_each_label(tiny: Path) -> None:
    loaded = ModelSpec("x", pretrained=str(tiny)).load(Answers(LABELS, 2, ("a", "b")), 0)
    assert loaded.model.config.problem_type == "multi_label_classification"
    assert loaded.model.config.id2label == {0: "a", 1: "b"}


def test_a_run_its_evaluation_and_its_merged_model(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = written(tmp_path / "data", times=8), tmp_path / "run"
    words = [
        *("task=classification", "task.text_columns=[text]", f"task.data_dir={data}"),
        *("task.multi_label=true", "model=hub", f"model.pretrained={tiny}", "train.max_steps=2"),
        *("train.batch_size=8", "engine.precision=fp32", "run.figures=false"),
    ]
    main([*words, "method=lora", "method.rank=2", f"hydra.run.dir={out}"])
    result = record.read(out)
    assert result is not None
    assert (result["kind"], result["labels"]) == (LABELS, ["a", "b", "c"])
    assert list(result["metrics"]) == ["micro_f1", "macro_f1", "exact_match"]
    assert result["test_loss"] == pytest.approx(0.69, abs=0.2)
    evaluate.main([f"run={out}"])
    assert "exact_match" in capsys.readouterr().out
    export.main([f"run={out}", f"out={tmp_path}", "merge=true"])
    config = AutoConfig.from_pretrained(tmp_path / "merged")
    assert config.id2label == {0: "a", 1: "b", 2: "c"}
    assert config.problem_type == "multi_label_classification"


def test_rows_in_memory(tiny: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    model = AutoModelForSequenceClassification.from_pretrained(
        tiny, problem_type="multi_label_classification", id2label={0: "a", 1: "b", 2: "c"}
    )
    rows = [{"input_ids": [2, 6 + i, 3], "labels": [i % 2, 1, 0]} for i in range(16)]
    run = finetune(
        model, tokenizer, {"train": rows, "test": rows}, LoRA(rank=2), max_steps=2, batch_size=8
    )
    assert run.result["kind"] == LABELS
    assert set(run.result["metrics"]) == {"micro_f1", "macro_f1", "exact_match"}
    for wrong in (1, [1, 0], [2, 0, 0]):
        bad = [{"input_ids": [2], "labels": wrong}]
        with pytest.raises(UserError, match=r"row 0 of train.*3 numbers, 1 or 0"):
            finetune(model, tokenizer, {"train": bad, "test": rows}, LoRA(rank=2))
