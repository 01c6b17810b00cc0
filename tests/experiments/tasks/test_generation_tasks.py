"""The papers' tasks of written text: rows to pairs and tests, and what is said of wrong ones."""

import json
from pathlib import Path

import pytest

from bilevel.errors import UserError
from experiments.cli import hub
from experiments.metrics.text import TextMetric
from experiments.tasks.dart import DART
from experiments.tasks.demo_generation import DemoGeneration
from experiments.tasks.e2e import E2E, linearised
from experiments.tasks.examples import TextExample
from experiments.tasks.text_to_text import TextToText
from experiments.tasks.webnlg import WebNLG
from experiments.tasks.xsum import XSum
from tests.experiments.placed import said

MR = "name[The Vaults], eatType[pub], priceRange[£20-25], familyFriendly[no], near[Café A]"
E2E_ROWS = [
    {"meaning_representation": MR, "human_reference": "The Vaults is a pub."},
    {"meaning_representation": "name[Blue Spice]", "human_reference": "Blue Spice."},
    {"meaning_representation": MR, "human_reference": "A pub, the Vaults."},
]
WEBNLG_ROWS = [
    {
        "category": "Airport",
        "triples": ["A_B | served by | C,_D", "A_B | is | x | y"],
        "references": ["one", "two", "three"],
        "ref_comments": ["good", "toFix", "good"],
    },
    {
        "category": "Artist",
        "triples": ["E | is | F"],
        "references": ["four"],
        "ref_comments": ["good"],
    },
    {
        "category": "Food",
        "triples": ["G | is | H"],
        "references": ["five"],
        "ref_comments": ["bad"],
    },
]
DART_ROWS = [
    {"tripleset": [["S", "BORN_IN", "O"], ["S", "is", "X"]], "references": ["one", "two"]},
    {"tripleset": [["T", "IS", "O"]], "references": ["three"]},
    {"tripleset": [["T", "is", "O"]], "references": ["four"]},
]


def write(path: Path, **splits: list[dict]) -> str:
    for split, rows in splits.items():
        (path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def all_splits(path: Path, rows: list[dict]) -> str:
    return write(path, train=rows, validation=rows[:1], test=rows)


def test_e2e(tmp_path):
    data = E2E(data_dir=all_splits(tmp_path, E2E_ROWS)).load()
    source = (
        "name : The Vaults | Type : pub | price : £20-25 | family friendly : no | near : Café A"
    )
    assert said(data.train)[0] == TextExample(source, "The Vaults is a pub.")
    assert len(data.train) == 3
    assert said(data.validation) == said(data.train[:1])
    first, second = data.tests["test"]
    assert first[:3] == (
        source,
        "The Vaults is a pub.",
        ("The Vaults is a pub.", "A pub, the Vaults."),
    )
    assert second.source == "name : Blue Spice"
    assert (data.train_source, data.test_source) == ("train", "test")


def test_e2e_as_it_is(tmp_path):
    data = E2E(data_dir=all_splits(tmp_path, E2E_ROWS), linearise=False).load()
    assert data.train[0].source == MR


@pytest.mark.parametrize("meaning", ["The Vaults", "name[The Vaults], pub", "name[A] pub[B]"])
def test_no_meaning_representation(meaning):
    with pytest.raises(UserError, match=r"row 3 .*task\.linearise=false"):
        linearised(meaning, "row 3 of FILE")


def test_webnlg(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)  # no Java: METEOR takes half a minute
    data = WebNLG(data_dir=all_splits(tmp_path, WEBNLG_ROWS)).load()
    source = "A_B : served by : C,_D | A_B : is : x | y"
    assert said(data.train) == [
        TextExample(source, "one"),
        TextExample(source, "three"),
        TextExample("E : is : F", "four"),
    ]
    assert {name: len(rows) for name, rows in data.tests.items()} == {"seen": 1, "unseen": 1}
    assert data.tests["seen"][0].references == ("one", "three")
    perfect = {name: [e.references[-1] for e in rows] for name, rows in data.tests.items()}
    scores = data.score(perfect)
    assert {"ter", "ter_seen", "ter_unseen", "bleu", "bleu_seen", "bleu_unseen"} <= set(scores)
    assert scores["ter"] == scores["ter_unseen"] == 0


def test_webnlg_with_all_references(tmp_path):
    rows = [{k: v for k, v in row.items() if k != "ref_comments"} for row in WEBNLG_ROWS]
    data = WebNLG(data_dir=all_splits(tmp_path, rows), only_good=False).load()
    assert len(data.train) == 5
    assert len(data.tests["seen"]) == 2


def test_dart(tmp_path):
    data = DART(data_dir=all_splits(tmp_path, DART_ROWS)).load()
    assert said(data.train)[0] == TextExample("S : born_in : O | S : is : X", "one")
    assert len(data.train) == 4
    assert [e.references for e in data.tests["test"]] == [("one", "two"), ("three", "four")]


def test_training_on_the_validation_split_is_asked_for_and_told(tmp_path):
    path = write(tmp_path, validation=DART_ROWS[:1], test=DART_ROWS)
    with pytest.raises(UserError, match=r"train.*task\.train_split=validation"):
        DART(data_dir=path).load()
    data = DART(data_dir=path, train_split="validation").load()
    assert (data.train_source, data.validation, len(data.train)) == ("validation", None, 2)


def test_a_test_file_alone(tmp_path):
    path = write(tmp_path, test=[{"document": "long\ntext", "summary": "short"}])
    with pytest.raises(UserError, match=r"method=pretrained task\.train_split=null") as error:
        XSum(data_dir=path).load()
    assert "validation" not in str(error.value)  # which is not there either
    data = XSum(data_dir=path, train_split=None).load()
    assert (data.train, data.train_source) == ([], None)
    assert data.tests["test"] == [TextExample("long\ntext", "short", ("short",))]


def test_from_the_hub(monkeypatch):
    asked = []

    def load_dataset(*names, **options):
        asked.append((names, options))
        return {"train": E2E_ROWS, "validation": E2E_ROWS[:1], "test": E2E_ROWS}

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    monkeypatch.setattr(hub, "reachable", lambda: True)
    assert len(E2E().load().tests["test"]) == 2
    assert asked == [(("tuetschek/e2e_nlg",), {"revision": "refs/convert/parquet"})]


def test_without_the_hub(monkeypatch):
    monkeypatch.setattr(hub, "reachable", lambda: False)
    with pytest.raises(UserError, match=r"EdinburghNLP/xsum.*task\.data_dir"):
        XSum().load()


ROW = {"source": "a", "target": ["x", "y"]}


def test_text_to_text_is_tested_on_validation_without_a_test_file(tmp_path):
    data = TextToText(data_dir=write(tmp_path, train=[ROW], validation=[ROW])).load()
    assert (data.test_source, data.validation) == ("validation", None)
    assert data.tests["test"] == [TextExample("a", "x", ("x", "y"))]


WRONG = {
    "no folder": (WebNLG, {}, {"data_dir": None}, "webnlg.*task.data_dir"),
    "no test": (E2E, {"train": E2E_ROWS}, {}, "split test"),
    "tested on what is trained on": (
        TextToText,
        {"validation": [ROW]},
        {"train_split": "validation"},
        "split test",
    ),
    "no reference": (
        DART,
        {"train": DART_ROWS, "test": [{**DART_ROWS[0], "references": []}]},
        {},
        "line 1 .*test.jsonl.*no reference",
    ),
    "no column": (XSum, {"train": [ROW], "test": [ROW]}, {}, "column 'document'"),
    "comments missing": (
        WebNLG,
        {"train": WEBNLG_ROWS, "test": [{**WEBNLG_ROWS[0], "ref_comments": ["good"]}]},
        {},
        "1 ref_comments.*task.only_good=false",
    ),
    "no triple": (
        WebNLG,
        {"train": [{**WEBNLG_ROWS[0], "triples": ["A | B"]}], "test": WEBNLG_ROWS},
        {},
        "row 0 .*train.jsonl.*'A | B'.*triple",
    ),
    "empty source": (
        TextToText,
        {"train": [{"source": " ", "target": "x"}], "test": [ROW]},
        {},
        "line 1 .*column 'source'",
    ),
    "unknown metric": (E2E, {}, {"metrics": ("blue",)}, "metric 'blue'"),
    "no metric": (E2E, {}, {"metrics": ()}, "task.metrics.*empty"),
    "no room": (E2E, {}, {"max_length": 3}, r"max_length=3.*8 or more"),
}


@pytest.mark.parametrize(("kind", "splits", "options", "said"), WRONG.values(), ids=WRONG)
def test_one_sentence(tmp_path, kind, splits, options, said):
    with pytest.raises(UserError, match=said):
        kind(**{"data_dir": write(tmp_path, **splits), **options}).load()


def test_a_missing_package_is_told_when_the_task_is_named(monkeypatch):
    other = TextMetric("other", lambda hypotheses, references: 0.0, ("no-such-package",), "")
    monkeypatch.setattr("experiments.tasks.generation.TEXT_METRICS", {"other": other})
    with pytest.raises(UserError, match="package no-such-package"):
        E2E(metrics=("other",))


def test_without_java_a_metric_is_empty_and_that_is_said_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("shutil.which", lambda name: None)
    data = WebNLG(data_dir=all_splits(tmp_path, WEBNLG_ROWS)).load()
    written = {name: ["some text here"] * len(rows) for name, rows in data.tests.items()}
    scores = data.score(written)
    assert scores["meteor"] is scores["meteor_seen"] is scores["meteor_unseen"] is None
    assert scores["bleu"] is not None
    assert len([r for r in caplog.records if "java" in r.message]) == 1
    assert "java" in data.metric_settings["meteor"]


def test_words_are_cut_as_the_script_has_them_and_that_is_named(tmp_path):
    rows = [{"source": "a", "target": "我们去公园"}, {"source": "b", "target": "你好"}]
    path = write(tmp_path, train=rows, test=rows)
    data = TextToText(data_dir=path, metrics=("bleu", "rougeL", "cider")).load()
    scores = data.score({"test": ["我们去公园", "你好"]})
    assert [scores["bleu"], scores["rougeL"]] == pytest.approx([100, 100])
    assert "tok:zh" in data.metric_settings["bleu"]
    assert "zh tokens" in data.metric_settings["rougeL"]
    data = TextToText(data_dir=path, metrics=("bleu", "rougeL"), tokenization="13a").load()
    assert data.score({"test": ["我们去公园", "你好"]})["bleu"] is None
    assert "equal" in data.metric_settings["bleu"]
    with pytest.raises(UserError, match=r"tokenization.*zh"):
        TextToText(data_dir=path, tokenization="zhh")


@pytest.mark.parametrize("kind", [E2E, WebNLG, DART, XSum])
def test_the_papers_tasks_cut_words_as_the_papers(kind):
    assert kind(data_dir="x").tokenization == "13a"


def test_the_demos_examples():
    data = DemoGeneration(max_train=20, max_test=10, max_validation=5).load()
    trained, tested = {e.source for e in data.train}, {e.source for e in data.tests["test"]}
    held_out = {e.source for e in data.validation}
    assert (len(trained), len(tested), len(held_out)) == (20, 10, 5)
    assert len(trained | tested | held_out) == 35
    assert all(2 <= len(e.references) <= 5 for e in data.tests["test"])
    with pytest.raises(UserError, match=r"max_train=0.*1 or more"):
        DemoGeneration(max_train=0)


def test_one_file_of_texts_is_scored_whole(tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text('{"source": "a", "target": "b"}\n{"source": "c", "target": "d"}\n')
    task = TextToText(data_dir=str(path), source_column="source", target_column="target")
    assert len(task.to_score(None).tests["test"]) == 2
