"""The same numbers as those of the run's own test, for each kind of task, from files and Python."""

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from peft import PromptTuningConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

from experiments import load, predict
from experiments.cli.command_line import CommandLine
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.predicting.formats import Csv
from experiments.predicting.predictor import Predictor
from experiments.results.finished_run import SavedRun
from experiments.training.job import execute
from tests.experiments.predicting.conftest import NAMES, lines

KINDS = ("classes", "pairs", "number", "labels", "tags", "gpt2", "bart")
# Two batches of other rows round differently; predictions.jsonl has six digits after the point.
ROUNDED = 2e-6
LINE = CommandLine.parse([])


def close(said, told):
    """A prediction as the run has it: the same name, tags or text, or the same number."""
    if isinstance(told["prediction"], float):
        assert said["prediction"] == pytest.approx(told["prediction"], abs=ROUNDED)
    else:
        assert said["prediction"] == told["prediction"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_told_what_the_test_was(kind, kinds, tmp_path):
    run, asked, told, result = kinds(kind)
    (tmp_path / "new.jsonl").write_text(lines(asked))
    out = tmp_path / "out.jsonl"
    predict.main([f"run={run}", f"data={tmp_path / 'new.jsonl'}", f"out={out}", "batch_size=7"])
    said = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(said) == len(told)
    for row, given, right in zip(said, asked, told, strict=True):
        assert {key: row[key] for key in given} == given
        close(row, right)
        if "probabilities" in right:
            shares = [row[f"probability_{name}"] for name in result["labels"]]
            assert shares == pytest.approx(right["probabilities"], abs=ROUNDED)
    assert not (tmp_path / "out.jsonl.parts").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_python_is_told_the_same(kind, kinds):
    run, asked, told, result = kinds(kind)
    tuned = load(run)
    for rows in (asked, [plain(kind, row) for row in asked]):
        said = tuned.predict(rows, batch_size=3)
        for row, right in zip(said, told, strict=True):
            close(row, right)
            if "probabilities" in right:
                assert list(row["probabilities"]) == result["labels"]
                shares = list(row["probabilities"].values())
                assert shares == pytest.approx(right["probabilities"], abs=ROUNDED)


def plain(kind, row):
    """A row without the names of its columns."""
    if kind == "pairs":
        return (row["a"], row["b"])
    return row[{"tags": "tokens", "gpt2": "source", "bart": "source"}.get(kind, "text")]


def test_scores_by_hand(kinds):
    """Accuracy, Pearson's correlation and the share of right tags, out of result.json."""
    _, _, told, result = kinds("classes")
    said = load(kinds("classes").run).predict([row["text"] for row in kinds("classes").asked])
    right = np.mean([s["prediction"] == t["label"] for s, t in zip(said, told, strict=True)])
    assert right == pytest.approx(result["metrics"]["accuracy"], abs=1e-12)
    assert set(said[0]["probabilities"]) == set(NAMES)
    assert sum(said[0]["probabilities"].values()) == pytest.approx(1, abs=3e-6)

    run, asked, told, result = kinds("number")
    said = [row["prediction"] for row in load(run).predict(asked)]
    correlation = np.corrcoef(said, [t["label"] for t in told])[0, 1]
    assert correlation == pytest.approx(result["metrics"]["pearson"], abs=1e-4)

    run, asked, told, result = kinds("tags")
    said = [tag for row in load(run).predict(asked) for tag in row["prediction"]]
    tags = [tag for t in told for tag in t["tags"]]
    share = np.mean([a == b for a, b in zip(said, tags, strict=True)])
    assert share == pytest.approx(result["metrics"]["token_accuracy"], abs=1e-12)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_every_form_holds_the_same(suffix, kinds, tmp_path):
    """Rows of a form into the same form: what was there stays, with its type."""
    run, asked, told, result = kinds("classes")
    table = pd.DataFrame(asked)
    data, out = tmp_path / f"new{suffix}", tmp_path / f"out{suffix}"
    if suffix == ".csv":
        table.to_csv(data, index=False)
    else:
        table.to_parquet(data)
    predict.main([f"run={run}", f"data={data}", f"out={out}"])
    said = pd.read_csv(out) if suffix == ".csv" else pd.read_parquet(out)
    assert list(said.columns) == [
        *("n", "text", "prediction"),
        *(f"probability_{name}" for name in result["labels"]),
    ]
    assert said["n"].dtype == "int64"
    assert said[["n", "text"]].to_dict("records") == asked
    assert said["prediction"].tolist() == [t["prediction"] for t in told]
    shares = said[[f"probability_{name}" for name in result["labels"]]].to_numpy()
    assert np.abs(shares - [t["probabilities"] for t in told]).max() < ROUNDED


def test_sets_and_tags_in_csv(kinds, tmp_path):
    """Lists are JSON there."""
    for kind in ("labels", "tags"):
        run, asked, told, _ = kinds(kind)
        (tmp_path / "new.jsonl").write_text(lines(asked))
        out = tmp_path / f"{kind}.csv"
        predict.main([f"run={run}", f"data={tmp_path / 'new.jsonl'}", f"out={out}"])
        said = pd.read_csv(out)
        assert [json.loads(cell) for cell in said["prediction"]] == [t["prediction"] for t in told]


def test_words_a_line_and_words_in_a_text(kinds, tmp_path):
    run, asked, told, _ = kinds("tags")
    groups = ["\n".join(f"{word} x" for word in row["tokens"]) for row in asked]
    (tmp_path / "new.conll").write_text("\n\n".join(groups) + "\n")
    (tmp_path / "new.txt").write_text("".join(" ".join(row["tokens"]) + "\n" for row in asked))
    for name in ("new.conll", "new.txt"):
        out = tmp_path / f"{name}.jsonl"
        predict.main([f"run={run}", f"data={tmp_path / name}", f"out={out}"])
        said = [json.loads(line) for line in out.read_text().splitlines()]
        assert [row["prediction"] for row in said] == [t["prediction"] for t in told]
        if name == "new.conll":
            assert [row["tokens"] for row in said] == [row["tokens"] for row in asked]


def test_standard_input(kinds, tmp_path, monkeypatch, capsys):
    run, asked, told, _ = kinds("classes")
    given = Path(tmp_path, "given.txt")
    given.write_text("".join(row["text"] + "\n" for row in asked))
    with given.open() as stream:
        monkeypatch.setattr("sys.stdin", stream)
        predict.main([f"run={run}", "data=-", f"out={tmp_path / 'out.csv'}"])
    said = pd.read_csv(tmp_path / "out.csv")
    assert said["text"].tolist() == [row["text"] for row in asked]
    assert said["prediction"].tolist() == [t["prediction"] for t in told]
    assert "20 rows" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["given.txt", "out.csv"]


def test_a_run_so_old_that_it_does_not_name_its_classes(tmp_path):
    run = Path(__file__).parent.parent / "older_runs" / "finished"
    told = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    result = json.loads((run / "result.json").read_text())
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / "result.json").write_text(
        json.dumps({k: v for k, v in result.items() if k not in ("labels", "kind")})
    )
    texts = [example.texts[0] for example in SavedRun.open(str(run), LINE, []).task().tests["test"]]
    (tmp_path / "new.txt").write_text("".join(f"{text}\n" for text in texts))
    predict.main([f"run={folder}", f"data={tmp_path / 'new.txt'}", f"out={tmp_path / 'o.csv'}"])
    said = pd.read_csv(tmp_path / "o.csv")["prediction"].tolist()
    assert [row["prediction"] for row in load(folder).predict(texts)] == said
    if told and "prediction" in told[0]:
        assert said == [t["prediction"] for t in told]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["prompt", "prefix", "full", "houlsby", "bitfit", "autolora"])
def test_every_form_that_a_run_leaves_predicts(method, tiny, quick, tmp_path):
    words = [word for word in quick if method == "autolora" or "method." not in word]
    if method == "prompt":
        words += ["method.virtual_tokens=4", "task.max_length=40"]
    if method == "prefix":
        words += ["method.virtual_tokens=4", "task.max_length=40"]
    words += [f"method={method}", "run.figures=false", "train.max_steps=2"]
    result = execute(Plan.of(compose_config(words)), tmp_path / "run")
    text = (tmp_path / "run" / "predictions.jsonl").read_text()
    told = [json.loads(line) for line in text.splitlines()]
    task = SavedRun.open(str(tmp_path / "run"), LINE, []).task()
    texts = [example.texts[0] for example in task.tests["test"]]
    for row, right in zip(load(tmp_path / "run").predict(texts), told, strict=True):
        shares = list(row["probabilities"].values())
        assert shares == pytest.approx(right["probabilities"], abs=ROUNDED)
    assert list(row["probabilities"]) == result["labels"]


def test_nan_is_an_empty_cell() -> None:
    assert Csv("number", ()).part([{"prediction": math.nan}]).strip() in (b"", b'""')


def test_predictors_share_a_tokenizer(tiny: Path) -> None:
    base = AutoModelForSequenceClassification.from_pretrained(tiny)
    options: Any = {"task_type": "SEQ_CLS", "num_virtual_tokens": 20}
    model = get_peft_model(base, PromptTuningConfig(**options))
    shared, nothing = SimpleNamespace(model_max_length=48), SimpleNamespace()
    given: Any = (model, shared, nothing, False, None)
    for _ in range(2):
        assert Predictor(*given).tokenizer.model_max_length == 28
    assert shared.model_max_length == 48
