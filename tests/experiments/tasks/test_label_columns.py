"""Several labels a text, a column of 0 and 1 for each; the threshold chosen on validation data."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from bilevel.errors import UserError
from experiments import evaluate, load
from experiments.answers import LABELS, Answers
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.results import record
from experiments.run import main
from experiments.tasks.classification import Classification
from experiments.training.fine_tuning_job import load_task

COLUMNS = ("toxic", "insult", "threat")
MARKS = [(0, 0, 0), (1, 0, 0), (1, 1, 0), ("true", "False", "0.0"), (0, 1, 0)]
HIDDEN = [("-1", "-1", "-1"), ("", "", "")]


def written(folder: Path, **splits: Any) -> str:
    folder.mkdir(exist_ok=True)
    for split, marks in splits.items():
        with open(folder / f"{split}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", *COLUMNS])
            writer.writerows(["the film was great", *row] for row in marks)
    return str(folder)


def task(path: str, **options: Any) -> Any:
    options = {"multi_label": True, "label_columns": COLUMNS, **options}
    return Classification(data_dir=path, text_columns=("text",), **options)


def test_columns_are_labels_in_their_order(tmp_path: Path) -> None:
    """Also one that no training row has; a split whose marks are hidden is none to test on."""
    data = task(written(tmp_path, train=MARKS, test=HIDDEN, validation=MARKS[:2])).load()
    assert data.answers == Answers(LABELS, 3, COLUMNS)
    assert [e.labels for e in data.train] == [(), (0,), (0, 1), (0,), (1,)]
    assert data.test_source == "validation"
    assert [e.labels for e in data.tests["test"]] == [(), (0,)]


@pytest.mark.parametrize(
    ("marks", "options", "words"),
    [
        ([(0, 2, 0)], {}, r"line 2.*'2'.*insult"),
        ([(0, "yes", 0)], {}, r"'yes'.*insult"),
        ([(0, "", 1)], {}, r"line 2.*insult"),
        (MARKS, {"label_columns": ("toxic", "rude")}, "rude"),
        (MARKS, {"label_columns": ("toxic", "toxic")}, "toxic"),
        (MARKS, {"label_columns": ("toxic", "text")}, "text"),
        (MARKS, {"label_columns": ("toxic",)}, "two or more"),
        (MARKS, {"label_separator": ";"}, "label_separator"),
        (MARKS, {"multi_label": False}, "multi_label"),
        (MARKS, {"multi_label": False, "label_columns": None, "threshold": 0.3}, "threshold"),
        (MARKS, {"threshold": 1.0}, "threshold"),
    ],
)
def test_what_is_refused(tmp_path: Path, marks: Any, options: Any, words: str) -> None:
    path = written(tmp_path, train=marks, test=marks)
    with pytest.raises(UserError, match=words):
        task(path, **options).load()


def test_a_given_threshold(tmp_path: Path) -> None:
    data = task(written(tmp_path, train=MARKS, test=MARKS[:2]), threshold=0.2).load()
    logits = [np.array([-1.0, -1.5, 3.0]), np.array([-1.3, 0.1, -9.0])]  # p 0.27, 0.18; 0.21
    rows = data.records(logits, data.tests["test"])
    assert [row["prediction"] for row in rows] == [["toxic", "threat"], ["toxic", "insult"]]
    right = np.array([[0, 0, 0], [1, 0, 0]])
    said = np.array([[1, 0, 1], [1, 1, 0]])
    expected = f1_score(right, said, average="micro")
    assert data.score({"test": logits})["micro_f1"] == pytest.approx(expected)
    assert data.metric_settings["micro_f1"].endswith("p > 0.2")
    assert data.at_threshold(0.7).threshold == 0.2


def test_the_chosen_threshold_is_the_best_of_all() -> None:
    path = Classification(
        data_dir="x", text_columns=("text",), multi_label=True, threshold="validation"
    )
    data = path.to_predict(COLUMNS)
    assert data.threshold is None
    generator = np.random.default_rng(0)
    right = generator.random((200, 3)) < 0.3
    logits = 2.0 * right - 2.0 + generator.normal(size=(200, 3))
    examples = [
        type("E", (), {"labels": tuple(np.flatnonzero(row)), "texts": ("x",)})() for row in right
    ]
    found = data.decided(list(logits), examples)
    scores = {
        t: f1_score(right, 1 / (1 + np.exp(-logits)) > t, average="micro")
        for t in np.arange(1, 100) / 100
    }
    assert scores[found.threshold] == pytest.approx(max(scores.values()))
    assert found.threshold < 0.4
    assert found.at_threshold(0.7).threshold == found.threshold


def words_of(tiny: Path, data: str) -> list[str]:
    return [
        *("task=classification", "task.text_columns=[text]", f"task.data_dir={data}"),
        *("task.multi_label=true", "task.label_columns=[toxic,insult,threat]", "model=hub"),
        *(f"model.pretrained={tiny}", "train.max_steps=2", "train.batch_size=8", "method=lora"),
        *("engine.precision=fp32", "run.figures=false", "task.threshold=validation"),
    ]


def test_a_run_chooses_it_and_everything_after_uses_it(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = written(tmp_path / "data", train=MARKS * 6, validation=MARKS * 2, test=MARKS)
    out = tmp_path / "run"
    main([*words_of(tiny, data), f"hydra.run.dir={out}"])
    result = record.read(out)
    assert result is not None
    threshold = result["threshold"]
    assert threshold != 0.5  # an untrained head is nowhere near it
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    for row in rows:
        said = [n for n, p in zip(COLUMNS, row["probabilities"], strict=True) if p > threshold]
        assert row["prediction"] == said
    evaluate.main([f"run={out}"])
    shown = capsys.readouterr().out
    assert f"{result['metrics']['micro_f1']:.4f}" in shown
    found = load(out).predict(["the film was great"])[0]
    assert found["label" if "label" in found else "prediction"] == rows[0]["prediction"]


def test_without_validation_data_there_is_none_to_choose(tiny: Path, tmp_path: Path) -> None:
    data = written(tmp_path / "data", train=MARKS * 6, test=MARKS)
    with pytest.raises(UserError, match=r"threshold=validation"):
        load_task(Plan.of(compose_config(words_of(tiny, data))))
