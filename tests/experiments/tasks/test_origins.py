"""Examples know where they stand in the user's file, whatever is cut off and shuffled."""

import json

import pandas as pd
import pytest

from experiments.tasks.classification import Classification
from experiments.tasks.demo import Demo
from experiments.tasks.demo_tagging import DemoTagging
from experiments.tasks.examples import Example, Origin
from experiments.tasks.glue import Glue
from experiments.tasks.kinds.labelled import LabelledData
from experiments.tasks.tagging import Tagging
from experiments.tasks.text_to_text import TextToText


def numbered_csv(path, rows=40):
    """A file in which row i stands on line 2 i + 2, as every text has a line break in it."""
    lines = ["text,label", *(f'"number {i}\nof many",{"ab"[i % 2]}' for i in range(rows))]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("options", [{}, {"max_train": 7}])
def test_cuts_of_one_csv_file(tmp_path, options):
    path = numbered_csv(tmp_path / "all.csv")
    data = Classification(str(path), text_columns=["text"], holdout=0.25, **options).load()
    assert len(data.train) == options.get("max_train", 30)
    lines = path.read_text().split("\n")
    for example, origin in zip(data.train, data.origins(), strict=True):
        assert origin.unit == "line"
        assert origin.file == str(path)
        assert lines[origin.number - 1] == '"' + example.texts[0].split("\n")[0]


def test_rows_of_parquet_count_from_0(tmp_path):
    for split in ("train", "validation"):
        frame = pd.DataFrame({"sentence": [f"s{i}" for i in range(20)], "label": [0, 1] * 10})
        frame.to_parquet(tmp_path / f"{split}.parquet")
    data = Glue("sst2", data_dir=str(tmp_path), max_train=6).load()
    assert [o.unit for o in data.origins()] == ["row"] * 6
    assert [e.texts[0] for e in data.train] == [f"s{o.number}" for o in data.origins()]


def test_pairs_and_regression(tmp_path):
    rows = [{"sentence1": f"a{i}", "sentence2": f"b{i}", "label": i / 7} for i in range(12)]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = Glue("stsb", data_dir=str(tmp_path), max_train=5).load()
    assert [e.texts[1] for e in data.train] == [f"b{o.number - 1}" for o in data.origins()]


def test_sentences_stand_where_their_first_word_does(tmp_path):
    text = "EU B-ORG\nrejects O\n\nit O\n\nPeter B-PER\nBlackburn I-PER\n"
    for split in ("train", "test"):
        (tmp_path / f"{split}.conll").write_text(text)
    data = Tagging(str(tmp_path)).load()
    assert [o.number for o in data.origins()] == [1, 4, 6]
    assert text.split("\n")[5].startswith(data.train[2].words[0])


def test_every_target_of_a_row_is_of_that_row(tmp_path):
    rows = [{"q": f"q{i}", "a": f"a{i}"} for i in range(3)]
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = TextToText(data_dir=str(tmp_path), source_column="q", target_column="a").load()
    assert [o.number for o in data.origins()] == [1, 2, 3]


def test_made_up_data_count_from_0():
    for task in (Demo(max_train=5), DemoTagging(max_train=5)):
        data = task.load()
        assert data.origins() == [Origin(task.name, i) for i in range(5)]


def test_an_example_of_no_place_stands_where_it_is():
    data = LabelledData("mine", [Example(("a",), 0)], {}, "none", ("accuracy",), 8)
    assert data.origins() == [Origin("mine", 0)]


def test_the_truth_gets_its_classs_new_number_too():
    train = [Example(("a",), 0, Origin("f", 3, "line", 1)), Example(("b",), 1)]
    data = LabelledData("t", train, {}, "none", ("accuracy",), 8, label_names=["x", "y"])
    first, second = data.renumbered(("y", "x")).train
    assert (first.label, first.origin.truth, first.origin.number) == (1, 0, 3)
    assert second.label == 0
