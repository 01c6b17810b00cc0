"""Rows that read well and mean something else: said, or refused, with their place."""

import json

import pytest

from bilevel.errors import UserError
from experiments.tasks.classification import Classification
from experiments.tasks.dart import DART
from experiments.tasks.glue import Glue
from experiments.tasks.instructions import Instructions
from experiments.tasks.reading.cells import looks_printed
from experiments.tasks.tagging import Tagging
from experiments.tasks.text_to_text import TextToText
from experiments.tasks.webnlg import WebNLG


def written(folder, rows, name="train.jsonl", test=None):
    (folder / name).write_text("\n".join(map(json.dumps, rows)))
    if name.startswith("train"):
        (folder / "test.jsonl").write_text("\n".join(map(json.dumps, test or rows)))
    return {"data_dir": str(folder)}


GOOD = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]


def test_empty_texts_are_said(tmp_path, caplog):
    rows = [*GOOD, {"text": "", "label": "x"}, {"text": " ", "label": "y"}]
    Classification(**written(tmp_path, rows, test=GOOD), text_columns="text").load()
    assert "line 3 of" in caplog.text
    assert "empty text in column 'text' (2 of 4 rows)" in caplog.text


@pytest.mark.parametrize("text", ["['a', 'b']", '["a"]', "[]", '["it\'s"]'])
def test_lists_printed_into_texts_are_said(tmp_path, caplog, text):
    assert looks_printed(text)
    data = written(
        tmp_path, [{"source": "a", "target": text}], test=[{"source": "a", "target": "b"}]
    )
    assert TextToText(**data).load().train[0].target == text
    assert "line 1 of" in caplog.text
    assert "printed list" in caplog.text


@pytest.mark.parametrize("text", ["[a] b", "a ['b']", "[1]", "['a'", ""])
def test_other_brackets_are_text(text):
    assert not looks_printed(text)


def test_printed_lists_are_no_references(tmp_path):
    row = {"tripleset": [["A", "B", "C"]], "references": "['x', 'y']"}
    with pytest.raises(UserError, match=r"line 1 .*'references'.*printed"):
        DART(**written(tmp_path, [row])).load()


def test_comments_stay_with_their_references(tmp_path):
    entry = {
        "category": "airport",  # of the training data, however it is written
        "triples": ["A | b | C"],
        "references": ["one", "", "two"],
        "ref_comments": ["bad", "good", "Good"],
    }
    data = WebNLG(**written(tmp_path, [entry])).load()
    assert [e.target for e in data.train] == ["two"]
    assert list(data.tests) == ["seen"]
    with pytest.raises(UserError, match=r"list in column 'category'"):
        WebNLG(**written(tmp_path, [{**entry, "category": ["Airport"]}])).load()


def several(folder, cells, **options):
    rows = [{"text": "t", "label": cell} for cell in cells]
    return Classification(
        **written(folder, rows), text_columns="text", multi_label=True, **options
    ).load()


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ([[0, 1, 1], [1, 0, 0]], "zeros and ones"),
        ([[0, 1], [1, 0]], "zeros and ones"),
        ([[True, False], [False, False]], "zeros and ones"),
        ([["a"], ["b", ""]], "line 2 .*empty"),
        ([["a"], ["b", None]], "line 2 .*empty"),
        ([["a"], [["b"]]], "line 2 .*a list"),
        ([["a"], None], "line 2 .*nothing"),
        (["['a', 'b']", "['b']"], "line 1 .*printed"),
    ],
)
def test_cells_that_are_no_sets_of_names(tmp_path, cells, said):
    with pytest.raises(UserError, match=said):
        several(tmp_path, cells, label_separator=",")


def test_sets_of_the_names_0_and_1_are_read(tmp_path):
    assert several(tmp_path, [[0], [1], [0, 1], []]).label_names == ["0", "1"]


def test_a_separator_that_never_occurs_is_said(tmp_path, caplog):
    assert several(tmp_path, ["a, b", "b"], label_separator=";").label_names == ["a, b", "b"]
    assert "label_separator=';'" in caplog.text
    caplog.clear()
    several(tmp_path, ["a;b", "b"], label_separator=";")
    assert not caplog.text


@pytest.mark.parametrize(
    "lines",
    [
        ["1 EU B-ORG", "1 is O", "", "2 Ann B-PER", "2 Lee I-PER"],  # of the sentence
        ["d1 EU B-ORG", "d1 is O", "", "d1 Ann B-PER"],  # of the document
        ["0-2 EU B-ORG", "3-5 is O", "", "6-9 Ann B-PER"],  # characters
        ["7 EU B-ORG", "9 is O"],
    ],
)
def test_a_first_column_without_words_is_refused(tmp_path, lines):
    for split in ("train", "test"):
        (tmp_path / f"{split}.conll").write_text("\n".join(lines))
    with pytest.raises(UserError, match="tokens_column=1"):
        Tagging(data_dir=str(tmp_path)).load()
    data = Tagging(data_dir=str(tmp_path), tokens_column="1").load()
    assert data.train[0].words == ("EU", "is")


def tagged(folder, tags, **options):
    return Tagging(
        **written(folder, [{"tokens": ["EU", "is"], "ner_tags": tags}]), **options
    ).load()


def test_tags_that_are_no_names(tmp_path, caplog):
    names = ("O", "B-ORG", "I-ORG")
    assert tagged(tmp_path, ["B-ORG ", "O"]).train[0].tags == ("B-ORG", "O")
    with pytest.raises(UserError, match="True"):
        tagged(tmp_path, [True, False], tag_names=names)
    with pytest.raises(UserError, match="twice"):
        tagged(tmp_path, [1, 0], tag_names=("O", "B-ORG", "B-ORG"))
    with pytest.raises(UserError, match=r"none of task\.tag_names"):
        tagged(tmp_path, ["B-PER", "O"], tag_names=names)
    tagged(tmp_path, ["B-ORG", "B-Org"])
    assert "'ORG', 'Org'" in caplog.text


def test_a_label_column_of_another_spelling_is_no_missing_label(tmp_path):
    test = [{"text": "a", "LABEL": "x"}]
    with pytest.raises(UserError, match=r"test.jsonl has no column 'label'.*'LABEL'"):
        Classification(**written(tmp_path, GOOD, test=test), text_columns="text").load()


def test_targets_that_are_all_one_are_said(tmp_path, caplog):
    rows = [{"text": "a", "label": 3}, {"text": "b", "label": 3.0}]
    Classification(**written(tmp_path, rows), text_columns="text", regression=True).load()
    assert "all 2 targets are 3" in caplog.text


def test_glue_says_what_it_has_no_example_of(tmp_path, caplog):
    rows = [{"sentence1": "a", "sentence2": "b", "label": 0}]
    folder = written(tmp_path, rows)
    Glue(name="rte", **folder).load()
    assert "no example of 1 of the model's 2 classes (not_entailment)" in caplog.text
    rows[0]["label"] = True  # as SuperGLUE's, where true is another class
    with pytest.raises(UserError, match="True is unknown"):
        Glue(name="rte", **written(tmp_path, rows)).load()


def test_a_folder_of_one_file_of_instructions(tmp_path):
    rows = [{"instruction": f"do {i}", "input": "", "output": "x"} for i in range(60)]
    data = Instructions(**written(tmp_path, rows, "mine.jsonl")).load()
    assert (len(data.train), data.test_source) == (59, "train_share")


def test_one_text_column_twice_is_refused_as_what_it_is():
    with pytest.raises(UserError, match=r"both name the column 'a'$"):
        Classification(data_dir="x", text_columns=("a", "a"))
