"""Tagged words from the user's own files, and what is told of wrong ones."""

import json

import pandas as pd
import pytest

from bilevel.errors import UserError
from experiments.tasks.examples import TaggedExample
from experiments.tasks.reading.sentences import LINES
from experiments.tasks.tagging import Tagging
from tests.experiments.placed import said

ROWS = [
    {"tokens": ["IL-2", "gene", "and", "Hb"], "ner_tags": ["B-DNA", "I-DNA", "O", "B-protein"]},
    {"tokens": ["the"], "ner_tags": ["O"]},
]
EXAMPLES = [TaggedExample(tuple(row["tokens"]), tuple(row["ner_tags"])) for row in ROWS]
NAMES = ("O", "B-DNA", "I-DNA", "B-protein", "I-protein")
NUMBERS = [{**row, "ner_tags": [NAMES.index(tag) for tag in row["ner_tags"]]} for row in ROWS]


def write(path, rows):
    """Rows as parquet or jsonl; a text as it is."""
    if path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        path.write_text(rows)


def folder(path, kind, **splits):
    for split, rows in splits.items():
        write(path / (split + kind), rows)
    return str(path)


def lines(rows, between="\t"):
    pairs = [zip(row["tokens"], row["ner_tags"], strict=True) for row in rows]
    return "\n\n".join("\n".join(between.join(pair) for pair in row) for row in pairs) + "\n"


@pytest.mark.parametrize("kind", [".parquet", ".jsonl"])
@pytest.mark.parametrize("rows", [ROWS, NUMBERS], ids=["names", "numbers"])
def test_rows(tmp_path, kind, rows):
    names = None if rows is ROWS else NAMES
    path = folder(tmp_path, kind, train=rows, test=rows[:1])
    data = Tagging(path, tag_names=names).load()
    assert said(data.train) == EXAMPLES
    assert said(data.tests["test"]) == EXAMPLES[:1]
    assert (data.test_source, data.validation, data.tag_names) == ("test", None, NAMES)


@pytest.mark.parametrize("kind", LINES)
@pytest.mark.parametrize("between", ["\t", " ", "\tNN\t_\t", " NN "])
def test_lines(tmp_path, kind, between):
    text = lines(ROWS, between)
    path = folder(tmp_path, kind, train=text, validation=text)
    data = Tagging(path).load()
    assert said(data.train) == EXAMPLES
    assert (data.test_source, said(data.tests["test"])) == ("validation", EXAMPLES)


def test_marks_of_documents_byte_order_and_line_ends(tmp_path):
    text = (
        f"\ufeff-DOCSTART- -X- O O\r\n\r\n{lines(ROWS[:1])}###MEDLINE:9\n{lines(ROWS[1:])}".rstrip()
    )
    path = folder(tmp_path, ".iob2", train=text.replace("\n", "\r\n"), test=text)
    data = Tagging(path).load()
    assert said(data.train) == said(data.tests["test"]) == EXAMPLES


def test_a_word_may_hold_odd_spaces(tmp_path):
    path = folder(tmp_path, ".conll", train="a\u00a0b B-X\n\u2028 O\n", test="x O\n")
    assert Tagging(path).load().train[0].words == ("a\u00a0b", "\u2028")


def test_three_files_and_other_columns(tmp_path):
    rows = [{"words": row["tokens"], "tags": row["ner_tags"]} for row in ROWS]
    path = folder(tmp_path, ".jsonl", train=rows, validation=rows[1:], test=rows[:1])
    data = Tagging(path, tokens_column="words", tags_column="tags").load()
    assert said(data.tests["test"]) == EXAMPLES[:1]
    assert said(data.validation) == EXAMPLES[1:]


def test_iob1_is_converted_when_asked(tmp_path):
    text = "a I-X\nb I-X\nc B-X\nd I-Y\ne O\nf I-Y\n"
    path = folder(tmp_path, ".txt", train=text, test=text)
    with pytest.raises(UserError, match=r"line 1 .*'I-X'.*task\.scheme=iob1"):
        Tagging(path).load()
    converted = ("B-X", "I-X", "B-X", "B-Y", "O", "B-Y")
    assert Tagging(path, scheme="iob1").load().train[0].tags == converted


def test_max_train_is_seeded(tmp_path):
    rows = [{"tokens": [str(i)], "ner_tags": ["B-X"]} for i in range(50)]
    path = folder(tmp_path, ".jsonl", train=rows, test=rows)
    data = Tagging(path, max_train=10, max_test=5).load()
    assert (len(data.train), len(data.tests["test"])) == (10, 5)
    assert Tagging(path, max_train=10).load().train == data.train
    assert Tagging(path, max_train=10, subset_seed=1).load().train != data.train


GOOD = lines(ROWS)
BAD_LINES = [
    ("a B_PER\n", r"line 1 .*train\.conll.*'B_PER'.*allowed"),
    ("a O\n\nb O\nc I-\n", "line 4 .*'I-'"),
    ("a S-PER\n", "'S-PER'.*allowed"),
    ("a B-X\nb E-X\n", "line 2 .*'E-X'.*allowed"),
    ("a B-X\nb I-Y\n", "line 2 .*'I-Y'.*'B-X'"),
    ("a b O\nword\n", "line 2 .*'word'.*must hold"),
    ("\n\n", "no words"),
    ("a O\n", "no entity"),
]


@pytest.mark.parametrize(("text", "message"), BAD_LINES)
def test_wrong_lines_are_one_clear_sentence(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        Tagging(folder(tmp_path, ".conll", train=text, test=GOOD)).load()


BAD_ROWS = [
    ({"tokens": ["a", "b"], "ner_tags": ["O"]}, "line 2 .*2 words.*1 tags"),
    ({"tokens": [], "ner_tags": []}, "0 words"),
    ({"tokens": ["a"]}, "'ner_tags'.*None"),
    ({"tokens": "a b", "ner_tags": ["O"]}, "'tokens'.*'a b'"),
    ({"tokens": ["a", ""], "ner_tags": ["O", "O"]}, "word 1 .*line 2 .*''"),
    ({"tokens": ["a"], "ner_tags": [0]}, r"tag 0.*task\.tag_names"),
    ({"tokens": ["a"], "ner_tags": [0.5]}, "tag 0.5.*must be"),
    ({"tokens": ["a"], "ner_tags": ["DNA"]}, "word 0 .*line 2 .*'DNA'"),
]


@pytest.mark.parametrize(("row", "message"), BAD_ROWS)
def test_wrong_rows_are_one_clear_sentence(tmp_path, row, message):
    with pytest.raises(UserError, match=message):
        Tagging(folder(tmp_path, ".jsonl", train=[ROWS[0], row], test=ROWS)).load()


BAD_OPTIONS = [
    ({"data_dir": None}, "task.data_dir"),
    ({"scheme": "bioes"}, "scheme=bioes.*iob2, iob1"),
    ({"tokens_column": "words"}, "'words'.*'tokens', 'ner_tags'"),
    ({"max_length": 4}, "max_length=4.*8 or more"),
    ({"max_test": 0}, "max_test=0.*1 or more"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
def test_wrong_options_are_one_clear_sentence(tmp_path, options, message):
    path = folder(tmp_path, ".jsonl", train=ROWS, test=ROWS)
    with pytest.raises(UserError, match=message):
        Tagging(**{"data_dir": path, **options}).load()


def test_missing_files_unknown_types_and_numbers(tmp_path):
    with pytest.raises(UserError, match="file train"):
        Tagging(str(tmp_path)).load()
    path = folder(tmp_path, ".jsonl", train=NUMBERS)
    with pytest.raises(UserError, match="file test or validation"):
        Tagging(path).load()
    folder(tmp_path, ".conll", test="a O\nb B-RNA\n")
    with pytest.raises(UserError, match=r"line 2 .*'B-RNA'.*DNA, protein"):
        Tagging(path, tag_names=NAMES).load()
    with pytest.raises(UserError, match=r"tag 2.*0 to 1"):
        Tagging(path, tag_names=["O", "B-DNA"]).load()
    (tmp_path / "test.txt").write_bytes(b"\xff O\n")
    with pytest.raises(UserError, match="several files"):
        Tagging(path, tag_names=NAMES).load()
    (tmp_path / "test.conll").unlink()
    with pytest.raises(UserError, match="UTF-8"):
        Tagging(path, tag_names=NAMES).load()
