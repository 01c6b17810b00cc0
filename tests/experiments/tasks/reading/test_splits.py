"""Files are found by the names that people give them, and a folder that lacks one is listed."""

import json

import pytest

from bilevel.errors import UserError
from experiments.tasks.classification import Classification
from experiments.tasks.generation import HELD_OUT
from experiments.tasks.reading.files import read_rows
from experiments.tasks.reading.splits import find_split, no_split, own_splits, scored_splits
from experiments.tasks.tagging import Tagging
from experiments.tasks.text_to_text import TextToText


def touch(folder, *names):
    for name in names:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("names", "split", "expected"),
    [
        (["train.csv"], "train", "train.csv"),
        (["train.CSV"], "train", "train.CSV"),
        (["Train.csv"], "train", "Train.csv"),
        (["TRAIN.JSONL.GZ"], "train", "TRAIN.JSONL.GZ"),
        (["training.csv"], "train", "training.csv"),
        (["dev.csv"], "validation", "dev.csv"),
        (["val.csv"], "validation", "val.csv"),
        (["valid.csv"], "validation", "valid.csv"),
        (["validation.csv", "dev.csv"], "validation", "validation.csv"),
        (["dev_matched.tsv", "dev_mismatched.tsv"], "validation_matched", "dev_matched.tsv"),
        (["train.csv.bak", ".train.csv", "mytrain.csv"], "train", None),
        (["train-00000-of-00001.parquet"], "train", "train-00000-of-00001.parquet"),
    ],
)
def test_names(tmp_path, names, split, expected):
    found = find_split(touch(tmp_path, *names), split)
    assert (found and [path.name for path in found]) == (expected and [expected])


def test_two_that_could_be_meant(tmp_path):
    touch(tmp_path, "train.csv", "train.jsonl", "dev.csv", "dev.CSV")
    for split in ("train", "validation"):
        with pytest.raises(UserError, match=r"several files.*keep one"):
            find_split(tmp_path, split)
    with pytest.raises(UserError, match=r"several files.*train-00000-of-00001"):
        find_split(touch(tmp_path, "train-00000-of-00001.csv"), "train")


def test_shards_follow_one_another(tmp_path):
    for number in (1, 0):
        path = tmp_path / f"train-0000{number}-of-00002.jsonl"
        path.write_text(json.dumps({"text": str(number)}))
    found = find_split(tmp_path, "train")
    assert [row["text"] for row in read_rows(found)] == ["0", "1"]
    path.unlink()
    with pytest.raises(UserError, match=r"train-00001-of-00002.*not all of 2"):
        find_split(tmp_path, "train")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-extra.jsonl", "train"),
        ("Train (1).csv", "train"),
        ("train2.csv.gz", "train"),
        ("training.csv", "train"),
        ("dev.csv", "validation"),
        ("test_b.csv", "test"),
    ],
)
def test_files_that_look_like_more_of_a_split_are_told(tmp_path, name, split, caplog):
    touch(tmp_path, "train.csv", "validation.csv", "test.csv", name)
    scored_splits(tmp_path)  # what has a training file is then read whole, and told there
    assert [path.name for path in own_splits(tmp_path)[split]] == [f"{split}.csv"]
    (said,) = caplog.messages
    assert all(word in said for word in (f"the split {split} ", name, "task.sources"))


def test_they_are_told_where_nothing_is_trained_on(tmp_path, caplog):
    touch(tmp_path, "validation.csv", "test.csv", "test_b.csv")
    assert [path.name for path in scored_splits(tmp_path)["test"]] == ["test.csv"]
    (said,) = caplog.messages
    assert "test_b.csv" in said


def test_files_of_other_names_and_shards_are_not_told(tmp_path, caplog):
    touch(tmp_path, "train-00000-of-00002.csv", "train-00001-of-00002.csv", "test.csv")
    touch(tmp_path, "trainer_state.json", "mytrain.csv", "testimony.csv", "train.csv.bak")
    assert len(own_splits(tmp_path)["train"]) == 2
    assert not caplog.messages


def test_what_is_there_is_listed(tmp_path):
    touch(tmp_path, "data.csv", "notes.txt", "a b.json", ".hidden")
    (tmp_path / "data").mkdir()
    message = str(no_split(tmp_path, "train"))
    assert "'a b.json', 'data.csv', 'data/', 'notes.txt'" in message
    assert ".hidden" not in message
    for number in range(50):
        touch(tmp_path, f"f{number}")
    assert "and 42 more" in str(no_split(tmp_path, "train"))
    with pytest.raises(UserError, match="is no folder"):
        find_split(tmp_path / "nowhere", "train")


ROWS = [{"text": f"t{i}", "label": "pos" if i % 4 else "neg"} for i in range(40)]
WORDS = [{"tokens": [f"t{i}", "x"], "ner_tags": ["B-A", "O"]} for i in range(40)]
PAIRS = [{"source": f"s{i % 20}", "target": f"t{i}"} for i in range(40)]
TASKS = {
    "classification": (Classification, ROWS, {"text_columns": "text"}),
    "tagging": (Tagging, WORDS, {}),
    "text_to_text": (TextToText, PAIRS, {}),
}


def lines(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.parametrize("name", TASKS)
def test_one_single_file(tmp_path, name):
    task, rows, options = TASKS[name]
    path = lines(tmp_path / "reviews.jsonl", rows)
    for data_dir in (tmp_path, path):  # the folder that holds it, or itself
        with pytest.raises(UserError, match=r"task\.holdout=0\.2"):
            task(data_dir=str(data_dir), **options).load()
    data = task(data_dir=str(tmp_path), holdout=0.25, **options).load()
    assert data.test_source == HELD_OUT
    train, test = set(data.train), set(data.tests["test"])
    assert not train & test
    assert len(test) == (5 if name == "text_to_text" else 10)  # of 20 sources, 40 rows
    again = task(data_dir=str(path), holdout=0.25, **options).load()
    assert (again.train, again.tests) == (data.train, data.tests)
    other = task(data_dir=str(path), holdout=0.25, subset_seed=1, **options).load()
    assert other.tests != data.tests
    if name == "classification":
        assert sum(example.label for example in test) in (7, 8)  # three quarters, as of all
    if name == "text_to_text":  # a source and its references are in one part
        assert not {e.source for e in train} & {e.source for e in test}


@pytest.mark.parametrize("name", TASKS)
def test_a_holdout_of_nothing_or_beside_a_test_file_is_refused(tmp_path, name):
    task, rows, options = TASKS[name]
    lines(tmp_path / "train.jsonl", rows)
    for share in (0, 1, 1.5, True):
        with pytest.raises(UserError, match="holdout"):
            task(data_dir=str(tmp_path), holdout=share, **options)
    with pytest.raises(UserError, match=r"splitting|holdout"):
        task(data_dir=str(tmp_path), holdout=0.001, **options).load()
    for other in ("dev", "test"):
        path = lines(tmp_path / f"{other}.jsonl", rows)
        with pytest.raises(UserError, match=r"holdout=0\.2.*single file"):
            task(data_dir=str(tmp_path), holdout=0.2, **options).load()
        path.unlink()


def test_a_test_file_without_labels_leaves_the_holdout(tmp_path):
    lines(tmp_path / "train.jsonl", ROWS)
    lines(tmp_path / "test.jsonl", [{"text": "x", "label": None}])
    with pytest.raises(UserError, match=r"no labels.*task\.holdout"):
        Classification(data_dir=str(tmp_path), text_columns="text").load()
    data = Classification(data_dir=str(tmp_path), text_columns="text", holdout=0.2).load()
    assert (data.test_source, len(data.train)) == (HELD_OUT, 32)


@pytest.mark.parametrize("name", TASKS)
def test_dev_is_the_validation_file(tmp_path, name):
    task, rows, options = TASKS[name]
    lines(tmp_path / "TRAIN.jsonl", rows)
    lines(tmp_path / "dev.jsonl", rows[:20])
    assert task(data_dir=str(tmp_path), **options).load().test_source == "validation"


@pytest.mark.parametrize("name", TASKS)
def test_no_training_file(tmp_path, name):
    task, rows, options = TASKS[name]
    lines(tmp_path / "test.jsonl", rows)
    with pytest.raises(UserError, match=r"train.*'test\.jsonl'"):
        task(data_dir=str(tmp_path), **options).load()


def test_columns_are_listed_where_none_is_named(tmp_path):
    (tmp_path / "train.csv").write_text("text, label\na,pos\n")
    with pytest.raises(UserError, match=r"task\.text_columns.*'text', ' label'"):
        Classification(data_dir=str(tmp_path))
    lines(tmp_path / "test.jsonl", ROWS)
    with pytest.raises(UserError, match=r"no column 'label'.*'text', ' label'"):
        Classification(data_dir=str(tmp_path), text_columns="text").load()
    (tmp_path / "train.csv").write_text("id,text;label\n1,a;pos\n")
    with pytest.raises(UserError, match=r"'text;label'.*task\.delimiter=semicolon"):
        Classification(data_dir=str(tmp_path), text_columns="text").load()


def test_a_column_may_be_called_0(tmp_path):
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text("0,1\na,pos\nb,neg\n")
    data = Classification(data_dir=str(tmp_path), text_columns=[0], label_column=1).load()
    assert [example.texts for example in data.train] == [("a",), ("b",)]
    with pytest.raises(UserError, match=r"no column '2'.*'0', '1'"):
        Classification(data_dir=str(tmp_path), text_columns=2, label_column=1).load()


@pytest.mark.parametrize(
    ("task", "options"),
    [
        (Classification, {"text_columns": ["text", "label"]}),
        (Classification, {"text_columns": "a", "label_column": "a"}),
        (Classification, {"text_columns": ["a", "a"]}),
        (TextToText, {"source_column": "a", "target_column": "a"}),
        (Tagging, {"tokens_column": "a", "tags_column": "a"}),
    ],
)
def test_one_column_in_two_parts_is_refused(task, options):
    with pytest.raises(UserError, match=r"task\..*column.*both name the column"):
        task(data_dir=".", **options)
