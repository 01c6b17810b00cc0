"""``FineTuned.predict`` of a model that was fine-tuned from Python, and what it refuses."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

import experiments
from bilevel.errors import UserError
from experiments import Decoding, finetune, load, predict
from experiments.answers import CLASSES, TAGS, Answers
from experiments.models.spec import ModelSpec
from experiments.tasks.in_memory import GivenTask
from problems import LoRA
from tests.experiments import writers

SETTINGS: dict[str, Any] = {"batch_size": 4, "max_steps": 2, "lr": 1e-2}
SETTINGS |= {"engine": {"precision": "fp32"}}
ROUNDED = 2e-6


def told(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def classes(tiny, texts, tmp_path_factory):
    """A model that was fine-tuned, its test's texts and rows, and what it said of them."""
    folder = tmp_path_factory.mktemp("given") / "run"
    tokenizer = ModelSpec("x", pretrained=str(tiny)).load(Answers(CLASSES, 3), 0).tokenizer
    names = {"num_labels": 3, "id2label": {0: "so so", 1: "bad", 2: "good"}}
    model = AutoModelForSequenceClassification.from_pretrained(tiny, **names)
    rows = [{**tokenizer(text), "label": i % 3} for i, text in enumerate(texts[:24])]
    data = {"train": rows, "test": rows[:10]}
    run = finetune(model, tokenizer, data, LoRA(rank=2), folder=folder, **SETTINGS)
    return SimpleNamespace(run=run, texts=texts[:10], rows=rows[:10], folder=folder)


def test_texts_and_rows_are_told_what_the_test_was(classes):
    asked = [classes.texts, classes.rows, Dataset.from_list(classes.rows)]
    unlabelled = [{k: v for k, v in row.items() if k != "label"} for row in classes.rows]
    asked += [pd.Series(classes.texts), np.array(classes.texts), iter(classes.texts), unlabelled]
    for inputs in asked:
        said = classes.run.predict(inputs, batch_size=3)
        for row, right in zip(said, told(classes.folder), strict=True):
            assert row["prediction"] == right["prediction"]
            assert list(row["probabilities"]) == ["so so", "bad", "good"]
            shares = list(row["probabilities"].values())
            assert shares == pytest.approx(right["probabilities"], abs=ROUNDED)
    assert classes.run.predict([]) == []


def test_pairs(classes):
    """A pair is two texts with the tokenizer's separator between, as in the tasks."""
    first, second = classes.texts[:2]
    said = classes.run.predict([(first, second), [second, first]])
    tokenizer = classes.run.asker.rows.tokenizer
    rows = [tokenizer(first, second), tokenizer(second, first)]
    assert said == classes.run.predict([dict(row) for row in rows])
    assert said != classes.run.predict([first, second])


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ("the film", "a list.*a text alone"),
        ({"text": "the film"}, "a list.*an object alone"),
        (7, "a list.*a number alone"),
        ([""], "input 0 has nothing"),
        (["good", None], "input 1 is nothing.*a text"),
        ([7], "input 0 is a number"),
        ([{"text": "good"}], "input 0 has no 'input_ids'"),
        ([{"input_ids": [2, 999_999]}], "input 0 has the token 999999"),
        ([["a", "b", "c"]], "input 0 is a list.*2 texts"),
        (["good", "bad \ud83d"], r"input 1 holds half a character, \\ud83d"),
    ],
)
def test_what_is_no_input(classes, inputs, words):
    with pytest.raises(UserError, match=words):
        classes.run.predict(inputs)


def test_rows_for_one_batch_have_the_same_columns(classes):
    lacking = {"input_ids": classes.rows[0]["input_ids"]}
    with pytest.raises(UserError, match="input 1 has no attention_mask, and input 0 has"):
        classes.run.predict([classes.rows[0], lacking])


def test_a_table_of_pyarrow(classes):
    rows = [{"input_ids": row["input_ids"]} for row in classes.rows]
    assert classes.run.predict(pa.Table.from_pylist(rows)) == classes.run.predict(rows)


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "4"])
def test_what_is_no_batch(classes, size):
    with pytest.raises(UserError, match="batch_size="):
        classes.run.predict(classes.texts, batch_size=size)


def test_a_run_of_python_is_told_from_one_of_the_command_line(classes, tmp_path, capsys):
    with pytest.raises(UserError, match=r"Python.*resume=True"):
        load(classes.folder)
    (tmp_path / "new.txt").write_text("the film\n")
    with pytest.raises(SystemExit):
        predict.main([f"run={classes.folder}", f"data={tmp_path}/new.txt", f"out={tmp_path}/o.csv"])
    assert "resume=True" in capsys.readouterr().err


def test_columns_of_a_run_by_name(kinds):
    run, asked, _, _ = kinds("pairs")
    tuned = load(run)
    for inputs, words in (
        ([{"a": "good"}], "input 0 has no column 'b'"),
        ([("good",)], "input 0 is a list.*2 texts.*a, b"),
        (["good"], "input 0 is a text.*2 texts"),
        ([{**asked[0], "b": " "}], "input 0 has nothing in 'b'"),
    ):
        with pytest.raises(UserError, match=words):
            tuned.predict(inputs)
    with pytest.raises(UserError, match="no finished run"):
        load(run / "adapter")


def test_words_and_tags(tiny, texts, tmp_path):
    names = {0: "O", 1: "B-A", 2: "I-A"}
    model = AutoModelForTokenClassification.from_pretrained(tiny, num_labels=3, id2label=names)
    tokenizer = ModelSpec("x", pretrained=str(tiny)).load(Answers(TAGS, 3), 0).tokenizer
    rows = []
    for text in texts[:12]:
        words = text.split()
        ids = tokenizer(words, is_split_into_words=True)
        first = [-100 if word is None else word % 2 for word in ids.word_ids()]
        rows.append({**ids, "labels": first, "words": words})
    data = {"train": rows, "test": rows[:5]}
    run = finetune(model, tokenizer, data, LoRA(rank=2), folder=tmp_path / "run", **SETTINGS)
    right = [row["prediction"] for row in told(tmp_path / "run")]
    for inputs in ([row["words"] for row in rows[:5]], texts[:5], rows[:5]):
        assert [row["prediction"] for row in run.predict(inputs)] == right
    with pytest.raises(UserError, match="input 0 has no 'labels'"):
        run.predict([{"input_ids": rows[0]["input_ids"]}])


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_text_is_written(kind, tmp_path):
    tokenizer = writers.tokenizer()
    rows, sources = [], []
    for i in range(12):
        source = [f"w{(i + k) % writers.WORDS}" for k in range(3 + i % 4)]
        tokens = tokenizer(" ".join(source))["input_ids"]
        target = [*tokens[::-1], writers.END]
        inputs = tokens if kind == "t5" else tokens + target
        labels = target if kind == "t5" else [-100] * len(tokens) + target
        rows.append({"input_ids": inputs, "labels": labels})
        sources.append({"input_ids": tokens, "text": " ".join(source)})
    run = finetune(
        writers.model(kind),
        tokenizer,
        {"train": rows, "test": rows[:5]},
        LoRA(rank=2),
        folder=tmp_path / "run",
        decoding=Decoding(max_new_tokens=6),
        **SETTINGS,
    )
    right = [row["prediction"] for row in told(tmp_path / "run")]
    texts = [row["text"] for row in sources]
    for inputs in (rows[:5], sources[:5], texts[:5]):
        assert [row["prediction"] for row in run.predict(inputs, batch_size=2)] == right


def test_words_to_load_with_are_a_list(kinds):
    with pytest.raises(UserError, match=r"overrides='model.pretrained=x'.*list"):
        load(kinds("classes").run, "model.pretrained=x")


def test_it_is_offered():
    assert {"FineTuned", "load"} <= set(experiments.__all__)


def test_the_code_of_the_page_runs(kinds, capsys):
    page = Path(__file__).parents[3] / "docs" / "predict.md"
    code = page.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    exec(code.replace("outputs/mine", str(kinds("classes").run)), {})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2
    assert all("{'bad': 0." in line for line in printed)


def test_several_labels_of_a_text(tiny, texts):
    """And a tokenizer without a limit, as T5's: transformers says 1e30."""
    tokenizer = ModelSpec("x", pretrained=str(tiny)).load(Answers(CLASSES, 3), 0).tokenizer
    names = {"num_labels": 3, "problem_type": "multi_label_classification"}
    model = AutoModelForSequenceClassification.from_pretrained(tiny, **names)
    rows = [{**tokenizer(t), "labels": [float(i % 2), 1.0, 0.0]} for i, t in enumerate(texts[:24])]
    run = finetune(model, tokenizer, {"train": rows, "test": rows[:8]}, LoRA(rank=2), **SETTINGS)
    by_rows = run.predict([{"input_ids": row["input_ids"]} for row in rows[:8]])
    by_texts = run.predict(texts[:8])
    assert [row["prediction"] for row in by_texts] == [row["prediction"] for row in by_rows]


def test_a_tokenizer_without_a_limit(tiny, texts):
    tokenizer = ModelSpec("x", pretrained=str(tiny)).load(Answers(CLASSES, 3), 0).tokenizer
    tokenizer.model_max_length = int(1e30)
    asked = GivenTask({}, Answers(CLASSES, 2), tokenizer, positions=None)
    data = asked.to_predict(None)
    assert tokenizer(texts[0], truncation=True, max_length=data.max_length)["input_ids"]
