"""Labelled texts from files, GLUE's among them, and what is told of wrong ones."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest

from bilevel.errors import UserError
from bilevel.settings import from_values, options
from experiments.answers import CLASSES, NUMBER, Answers
from experiments.cli import hub
from experiments.tasks.classification import Classification
from experiments.tasks.examples import Example
from experiments.tasks.glue import GLUE, Glue
from experiments.tasks.kinds.labelled import LabelledData
from experiments.tasks.reading.files import SUFFIXES, read_rows
from experiments.tasks.task import Task
from tests.experiments import writers
from tests.experiments.placed import said

ROWS = [
    {"text": 'a "fine" film', "label": "good"},
    {"text": "NA, so to say", "label": "bad"},
    {"text": "dull", "label": "bad"},
    {"text": "null", "label": "good"},
]

THREE = [*ROWS, {"text": "so so", "label": "mixed"}]


def write(path, rows):
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[-1]
    frame = pd.DataFrame(rows)
    if kind == "parquet":
        frame.to_parquet(path)
        return
    if kind == "jsonl":
        text = "\n".join(json.dumps(row) for row in rows)
    elif kind == "json":
        text = json.dumps(rows)
    elif kind == "csv":
        text = frame.to_csv(index=False)
    else:
        lines = ["\t".join(map(str, row.values())) for row in rows]
        text = "\n".join(["\t".join(rows[0]), *lines])
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def folder(path, kind=".jsonl", **splits):
    for split, rows in splits.items():
        write(path / (split + kind), rows)
    return str(path)


def user_task(path, **options):
    return Classification(data_dir=str(path), **{"text_columns": ["text"], **options})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    write(tmp_path / f"train{suffix}", ROWS)
    assert read_rows(tmp_path / f"train{suffix}") == ROWS


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("labels", [["good", "bad"], [7, 3], [1.0, 0.0]])
def test_labels_as_names_or_numbers(tmp_path, suffix, labels):
    rows = [{"text": f"t{i}", "label": labels[i % 2]} for i in range(6)]
    data = user_task(folder(tmp_path, suffix, train=rows, validation=rows)).load()
    assert data.label_names == {"good": ["bad", "good"], 7: ["3", "7"], 1.0: ["0", "1"]}[labels[0]]
    assert [example.label for example in data.train] == [1, 0, 1, 0, 1, 0]
    assert data.answers.size == 2
    assert data.answers.kind == CLASSES


def test_numeric_labels_are_ordered_as_numbers(tmp_path):
    rows = [{"text": "x", "label": label} for label in (10, 9, -1)]
    data = user_task(folder(tmp_path, ".csv", train=rows, validation=rows)).load()
    assert data.label_names == ["-1", "9", "10"]


def test_two_text_columns_and_a_label_column(tmp_path):
    rows = [{"a": "x", "b": 5, "c": "y"}, {"a": "u", "b": 6, "c": "n"}]
    path = folder(tmp_path, train=rows, validation=rows)
    data = user_task(path, text_columns=["a", "b"], label_column="c").load()
    assert said(data.train)[0] == Example(("x", "5"), 1)


def test_a_labelled_test_file_is_the_test_set_and_an_unlabelled_one_is_not(tmp_path):
    path = folder(tmp_path, train=ROWS, validation=ROWS[:2], test=ROWS[:1])
    data = user_task(path).load()
    assert (data.test_source, len(data.tests["test"]), len(data.validation)) == ("test", 1, 2)
    for unlabelled in ({"text": "x"}, {"text": "x", "label": -1}, {"text": "x", "label": None}):
        write(tmp_path / "test.jsonl", [unlabelled])
        data = user_task(path).load()
        assert (data.test_source, len(data.tests["test"])) == ("validation", 2)
        assert data.validation is None


def test_an_unlabelled_validation_file_beside_a_test_is_told(tmp_path, caplog):
    path = folder(tmp_path, train=ROWS, validation=[{"text": "x"}], test=ROWS[:1])
    data = user_task(path).load()
    assert (data.test_source, data.validation) == ("test", None)
    assert "validation.jsonl has no labels" in caplog.text


def test_regression_targets(tmp_path):
    rows = [{"text": "x", "label": value} for value in (0.5, 2, 3.25)]
    data = user_task(folder(tmp_path, ".csv", train=rows, validation=rows), regression=True).load()
    assert [example.label for example in data.train] == [0.5, 2.0, 3.25]
    assert (data.label_names, data.answers) == (None, Answers(NUMBER, 1))
    assert data.stratify(data.train) is None
    scores = data.score({"test": np.array([[1.0], [2.0], [3.0]])})
    assert set(scores) == {"pearson", "spearman"}
    assert scores["spearman"] == pytest.approx(1.0, abs=1e-12)


def test_max_train_is_seeded_stratified_and_the_same_for_every_load(tmp_path):
    rows = [{"text": str(i), "label": int(i % 4 == 0)} for i in range(200)]
    path = folder(tmp_path, train=rows, validation=rows)
    data = user_task(path, max_train=40, max_test=20).load()
    assert len(data.train) == 40
    assert abs(sum(e.label for e in data.train) - 10) <= 1
    assert len(data.tests["test"]) == 20
    assert user_task(path, max_train=40).load().train == data.train
    assert user_task(path, max_train=40, subset_seed=1).load().train != data.train
    assert user_task(path, max_train=10).load().train == data.train[:10]


BAD = [
    ({}, {"data_dir": "nowhere"}, "no folder"),
    ({"validation": ROWS}, {}, "file train"),
    ({"train": ROWS}, {}, "test or validation.*task.holdout"),
    ({"train": ROWS, "validation": ROWS}, {"text_columns": ["txt"]}, "'txt'.*'text', 'label'"),
    ({"train": ROWS, "validation": ROWS}, {"label_column": "y"}, "column 'y'"),
    ({"train": ROWS, "validation": [{"text": "x", "label": "so"}]}, {}, "'so'.*unknown"),
    ({"train": ROWS, "validation": [{"txt": "x", "label": "bad"}]}, {}, "column 'text'"),
    ({"train": ROWS[:1], "validation": ROWS}, {}, "two.*labels"),
    ({"train": [*ROWS, {"text": "x", "label": None}], "validation": ROWS}, {}, "line 5"),
    ({"train": [*ROWS, {"text": None, "label": "bad"}], "validation": ROWS}, {}, "no text"),
    ({"train": ROWS, "validation": ROWS}, {"regression": True}, "no finite number"),
    ({"train": ROWS, "validation": ROWS}, {"max_train": 0}, "max_train=0.*1 or more"),
    ({"train": ROWS, "validation": ROWS}, {"metrics": ["bleu"]}, "metric 'bleu'"),
    ({"train": THREE, "validation": ROWS}, {"metrics": ["f1"]}, "f1.*has 3.*macro_f1"),
    ({"train": ROWS, "validation": ROWS}, {"metrics": ["pearson"]}, "pearson.*numbers"),
    ({}, {"metrics": ["accuracy"], "regression": True}, "accuracy.*classes.*spearman"),
    ({"train": ROWS, "validation": ROWS}, {"metrics": []}, "metrics is empty"),
    ({"train": ROWS, "validation": ROWS}, {"text_columns": None}, "task.text_columns"),
    ({"train": ROWS, "validation": ROWS}, {"text_columns": list("abc")}, "text_columns.*two"),
]


@pytest.mark.parametrize(("splits", "options", "message"), BAD)
def test_bad_input_is_one_clear_sentence(tmp_path, splits, options, message):
    path = folder(tmp_path, **splits)
    with pytest.raises(UserError, match=message):
        user_task(options.pop("data_dir", path), **options).load()


def test_f1_names_its_class(tmp_path):
    path = folder(tmp_path, train=ROWS, validation=ROWS)
    data = user_task(path, metrics=["f1", "accuracy"]).load()
    assert "'good'" in data.metric_settings["f1"]


def test_empty_and_unreadable_files(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\n")
    with pytest.raises(UserError, match="no rows"):
        user_task(tmp_path).load()
    (tmp_path / "train.csv").write_text("")
    with pytest.raises(UserError, match="no rows"):
        user_task(tmp_path).load()
    (tmp_path / "train.csv").unlink()
    (tmp_path / "train.parquet").write_text("not parquet")
    with pytest.raises(UserError, match="parquet"):
        user_task(tmp_path).load()
    (tmp_path / "train.jsonl").write_text("{}")
    with pytest.raises(UserError, match="several files"):
        user_task(tmp_path).load()


def glue_rows(name, labels):
    return [
        {**dict.fromkeys(GLUE[name].columns, f"w{i}"), "label": label, "idx": i}
        for i, label in enumerate(labels)
    ]


@pytest.mark.parametrize("name", GLUE)
def test_glue_tasks_from_files(tmp_path, name):
    names = GLUE[name].labels
    labels = [0.0, 2.5, 5.0] if names is None else list(range(len(names)))
    path = folder(
        tmp_path,
        train=glue_rows(name, labels),
        validation=glue_rows(name, labels),
        test=glue_rows(name, [-1]),  # GLUE's test labels are hidden
    )
    data = Glue(name, data_dir=path).load()
    assert [example.label for example in data.train] == labels
    assert data.test_source == "validation"
    assert list(data.tests) == ["test"]
    size = len(labels)
    perfect = np.array(labels)[:, None] if names is None else np.eye(size)
    assert data.score({"test": perfect})[data.primary_metric] == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("name", ["sst2", "stsb", "mnli"])
def test_a_labelled_test_file_beside_glue_s_development_set(tmp_path, name):
    labels = [0.5, 4.0] if name == "stsb" else [0, 1]
    halves = {"mnli": ("_matched", "_mismatched")}.get(name, ("",))
    rows = {f"validation{half}": glue_rows(name, labels) for half in halves}
    rows |= {f"test{half}": glue_rows(name, labels[1:]) for half in halves}
    data = Glue(name, data_dir=folder(tmp_path, train=glue_rows(name, labels), **rows)).load()
    assert data.test_source == "test"
    assert [e.label for test in data.tests.values() for e in test] == labels[1:] * len(halves)
    assert [e.label for e in data.validation] == labels * len(halves)


def test_glue_on_train_and_a_labelled_test_alone(tmp_path):
    path = folder(tmp_path, train=glue_rows("rte", [0, 1]), test=glue_rows("rte", [1]))
    data = Glue("rte", data_dir=path).load()
    assert (data.test_source, data.validation) == ("test", None)
    write(tmp_path / "test.jsonl", glue_rows("rte", [-1]))
    with pytest.raises(UserError, match="no file validation"):
        Glue("rte", data_dir=path).load()


def test_glue_labels_may_be_names(tmp_path):
    path = folder(tmp_path, ".tsv", train=glue_rows("rte", ["not_entailment", "entailment"]))
    write(tmp_path / "validation.tsv", glue_rows("rte", [1, 0]))
    data = Glue("rte", data_dir=path).load()
    assert [e.label for e in data.train] == [e.label for e in data.tests["test"]] == [1, 0]


def test_mnli_is_scored_matched_mismatched_and_together(tmp_path):
    path = folder(
        tmp_path,
        train=glue_rows("mnli", [0, 1, 2]),
        validation_matched=glue_rows("mnli", [0, 1]),
        validation_mismatched=glue_rows("mnli", [2, 2, 2]),
    )
    data = Glue("mnli", data_dir=path).load()
    scores = data.score({"matched": np.eye(3)[[0, 0]], "mismatched": np.eye(3)[[2, 2, 1]]})
    assert scores == {
        "accuracy": pytest.approx(3 / 5),
        "accuracy_matched": pytest.approx(1 / 2),
        "accuracy_mismatched": pytest.approx(2 / 3),
    }


def test_primary_metric_can_be_chosen_among_the_tasks_own():
    assert Glue("stsb").metrics == ("pearson", "spearman")
    assert Glue("stsb", primary_metric="spearman").metrics == ("spearman", "pearson")
    with pytest.raises(UserError, match="pearson, spearman"):
        Glue("stsb", primary_metric="accuracy")


def test_unknown_glue_label_and_task(tmp_path):
    path = folder(tmp_path, train=glue_rows("sst2", [0, 1]), validation=glue_rows("sst2", [2]))
    with pytest.raises(UserError, match=r"line 1 .*label 2.*unknown"):
        Glue("sst2", data_dir=path).load()
    with pytest.raises(UserError, match=r"name=wnli.*sst2"):
        Glue("wnli")


def test_an_unreachable_hub_names_data_dir(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "reachable", lambda: False)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(UserError, match=r"hub cannot be reached.*task\.data_dir"):
        Glue("cola").load()


def test_a_refused_connection_is_an_unreachable_hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert not hub.reachable()


def test_tokenise_truncates_to_the_shorter_of_task_and_model():
    data = LabelledData("t", [], {}, "test", ("accuracy",), 5, label_names=["a", "b"])
    rows = [Example(("w1 w2 w3", "w4 w5"), 1), Example(("w1", "w2"), 0)]
    tokenizer = writers.tokenizer()
    pairs = ["w1 w2 </s> w4 w5", "w1 </s> w2"]  # cut at the longer text; </s> parts the two
    for most, first in ((64, pairs[0]), (4, "w1 w2 </s> w4")):
        tokenizer.model_max_length = most
        found = data.tokenise(tokenizer, rows)
        assert [tokenizer.decode(row["input_ids"]) for row in found] == [first, pairs[1]]
        assert [row["labels"] for row in found] == [1, 0]
        assert set(found[0]) == {"input_ids", "attention_mask", "labels"}
    assert data.tokenise(tokenizer, []) == []


def test_records_hold_no_text():
    examples = [Example(("secret",), 1), Example(("secret", "too"), 0)]
    classes = LabelledData("t", [], {}, "test", ("accuracy",), 8, label_names=["no", "yes"])
    logits = [np.array([0.0, np.log(3)], np.float32), np.array([1000.0, -1000.0], np.float32)]
    assert classes.records(logits, examples) == [
        {"index": 0, "label": "yes", "prediction": "yes", "probabilities": [0.25, 0.75]},
        {"index": 1, "label": "no", "prediction": "no", "probabilities": [1.0, 0.0]},
    ]
    number = LabelledData("t", [], {}, "test", ("pearson",), 8)
    found = number.records([np.array([0.5], np.float32)], [Example(("secret",), 2)])
    assert found == [{"index": 0, "label": 2.0, "prediction": 0.5}]


def test_jsonl_lines_must_be_objects_and_may_lack_a_key(tmp_path):
    (tmp_path / "train.jsonl").write_text("[1]\n")
    with pytest.raises(UserError, match=r"line.*object"):
        user_task(tmp_path).load()
    path = folder(tmp_path, train=[*ROWS, {"label": "bad"}], validation=ROWS)
    with pytest.raises(UserError, match=r"line 5 .*no text"):
        user_task(path).load()


class Own(Task):
    """A user's class with a constructor of its own, which fields must not stand in for."""

    def __init__(self, size: int = 3) -> None:
        self.name = f"own{size}"

    def load(self):
        raise NotImplementedError


def test_a_task_may_have_a_constructor_instead_of_fields():
    assert from_values(Own, {"size": 4}, "task").name == "own4"
    assert [(o.name, o.default) for o in options(Own)] == [("size", "3")]
    with pytest.raises(UserError, match=r"task\.size=many.*integer"):
        from_values(Own, {"size": "many"}, "task")
