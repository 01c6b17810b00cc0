"""Files that cannot be what they seem are refused: the line, the column, the option that helps."""

import gzip
import json

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from bilevel.errors import UserError
from experiments.cli.messages import sentence
from experiments.tasks.classification import Classification
from experiments.tasks.in_memory_rows import labelled, tagged, written
from experiments.tasks.reading.dialect import Dialect
from experiments.tasks.reading.files import read_rows
from experiments.tasks.reading.row import check_columns
from experiments.tasks.text_to_text import TextToText

GOOD = 'text,label\n"a, b",pos\nc,neg\n'

# name, content, what is said
FILES = {
    "a comma too many": ("x.csv", "text,label\na,pos\nb,neg,\n", "line 3 .*3 fields.*header has 2"),
    "an unquoted comma": ("x.csv", "text,label\na, b,pos\n", "line 2 .*3 fields.*quotation"),
    "every row is longer": ("x.csv", "text,label\na,pos,1\nb,neg,2\n", "line 2 .*3 .*2"),
    "a row too short": ("x.csv", "text,label\na,pos\n\nb\n", "line 4 .*1 fields.*header has 2"),
    "a tab too many": ("x.tsv", "text\tlabel\na\tb\tpos\n", "line 2 .*3 fields.*2.*tab"),
    "after quoted lines": ("x.csv", 'text,label\n"a\nb\n\nc",pos\nd\n', "line 6 .*1 fields"),
    "an open quote": ("x.csv", 'text,label\n"a,pos\nb,neg\n', "line 2 .*quotation.*not closed"),
    "a quote inside": ("x.csv", 'text,label\na,pos\n"b" c,neg\n', "line 3 .*quoting=false"),
    "a header twice": ("x.csv", "text,text\na,b\n", "2 columns with the name 'text'"),
    "a header only": ("x.csv", "text,label\n", "no rows"),
    "nothing": ("x.csv", "", "no rows"),
    "blank lines only": ("x.csv", "\n \n\n", "no rows"),
    "semicolons": ("x.csv", "text;label\na, b;pos\n", "'text;label'.*delimiter=semicolon"),
    "tabs in .csv": ("x.csv", "text\tlabel\na\tpos\n", "delimiter=tab"),
    "quoted, semicolons": ("x.csv", '"text";"label"\n"a, b";"pos"\n', "delimiter=semicolon"),
    "quoted, tabs": ("x.csv", '"text"\t"label"\n"a, b"\t"pos"\n', "delimiter=tab"),
    "two files in one": ("x.csv", f"{GOOD}\ufefftext,label\nc,neg\n", "line 4 .*header once more"),
    "a number alone": ("x.jsonl", '{"a": 1}\n0.10000000000000000001\n', "line 2 .*object"),
    "pipes": ("x.csv", "text|label\na|pos\n", "delimiter=pipe"),
    "commas in .tsv": ("x.tsv", "text,label\na,pos\n", "delimiter=comma"),
    "quotes in .tsv": ("x.tsv", '"text"\t"label"\n"a"\t"pos"\n', "line 1 .*quoting=true"),
    "doubled quotes": ("x.tsv", 'text\tlabel\n"a ""b"""\tpos\n', "line 2 .*quoting=true"),
    "a NUL": ("x.csv", "text,label\na\0b,pos\n", "line 2 .*NUL"),
    "a broken line": ("x.jsonl", '{"a": 1}\n\n{"a": \n', "line 3 .*not JSON"),
    "JSON lines in .json": ("x.json", '{"a": 1}\n{"a": 1}\n{"a: 1}\n', "line 3 .*not JSON"),
    "no object": ("x.jsonl", '{"a": 1}\n[1, 2]\n', "line 2 .*object"),
    "two on a line": ("x.jsonl", '{"a": 1} {"a": 2}\n', "line 1 .*follows"),
    "a key twice": ("x.jsonl", '{"a": 1}\n{"a": 1, "a": 2}\n', "line 2 .*twice 'a'"),
    "an array's element": ("x.json", '[\n{"a": 1},\n3\n]', "line 3 .*object.*not 3"),
    "an array without a comma": ("x.json", '[{"a": 1}\n{"a": 2}]', "comma.*line 2"),
    "an array, then more": ("x.json", '[{"a": 1}]\n{"a": 2}', "follows.*line 2"),
    "an open array": ("x.json", '[{"a": 1}', "comma"),
    "an empty array": ("x.json", "[]", "no rows"),
    "one object": ("x.json", '{"data": [{"a": 1}]}', "one object.*'data'.*array"),
    "one object, indented": ("x.json", '{\n "data": []\n}', "line 1 .*array"),
    "nested too deeply": ("x.json", "[" * 100_000, "nested"),
    "half a character": ("x.jsonl", '{"a": "b"}\n{"a": "\\ud83d"}', r"line 2 .*half.*\\ud83d"),
    "half a name": ("x.json", '[{"\\udc00": 1}]', "half a character"),
    "an endless exponent": ("x.jsonl", '{"a": 1e-99999999999999999999}', "line 1 .*from 0"),
    "a number too long": ("x.jsonl", '{"a": ' + "1" * 5000 + "}", "line 1 "),
    "no parquet": ("x.parquet", "PAR1 but not", "parquet"),
    "parquet as csv": ("x.csv", "PAR1 and so on", "Parquet file"),
    "a spreadsheet": ("x.csv", "PK\x03\x04 and so on", "spreadsheet"),
}


@pytest.mark.parametrize(("name", "text", "said"), FILES.values(), ids=FILES)
def test_one_sentence(tmp_path, name, text, said):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", newline="")
    with pytest.raises(UserError, match=said) as error:
        read_rows(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_whole_character_of_two_halves_is_text(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(r'{"a": "\ud83d\ude00"}')
    assert read_rows(path) == [{"a": "\U0001f600"}]


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_as_many_columns_as_one_likes(tmp_path, name):
    """Each name was once held against all others, for minutes or for days."""
    names = [f"c{i}" for i in range(100_000)]
    path = tmp_path / name
    if name == "x.csv":
        path.write_text(",".join(names) + "\n" + ",".join("x" * len(names)) + "\n")
    else:
        path.write_text(json.dumps(dict.fromkeys(names, "x"))[:-1] + ', "c7": 0}')
        with pytest.raises(UserError, match="twice 'c7'"):
            read_rows(path)
        path.write_text(json.dumps(dict.fromkeys(names, "x")))
    rows = read_rows(path)
    assert len(rows[0]) == len(names)
    with pytest.raises(UserError, match="'c49', and 99950 more") as error:
        check_columns(rows, ["label"], str(path))
    assert len(str(error.value)) < 1000


def test_a_sentence_has_an_end(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("a" * 100_000 + ";b\n1;2\n")
    with pytest.raises(UserError) as error:
        read_rows(path)
    told = sentence(error.value)
    assert len(told) < 5000
    assert "delimiter=semicolon" in told


def test_a_gzip_file_that_is_made_to_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.tasks.reading.text.LARGE", 10_000)
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(b"text,label\n" + b"a" * 1_000_000 + b",pos\n"))
    with pytest.raises(UserError, match="unpacks to more than"):
        read_rows(path)
    path.write_bytes(gzip.compress(b"text,label\n" + b"a" * 9_000 + b",pos\n"))
    assert len(read_rows(path)[0]["text"]) == 9_000


def _no_utf8():
    ends = pyarrow.py_buffer(np.array([0, 1, 2], "int32").tobytes())
    buffers = [None, ends, pyarrow.py_buffer(b"\xffa")]
    return pyarrow.Array.from_buffers(pyarrow.string(), 2, buffers)


def _one_field_twice():
    numbers = pyarrow.array([1, 2])
    return pyarrow.StructArray.from_arrays([numbers, numbers], ["a", "a"])


@pytest.mark.parametrize("column", [_no_utf8, _one_field_twice])
def test_parquet_that_python_has_no_values_for(tmp_path, column):
    path = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.table({"text": column()}), path)
    with pytest.raises(UserError, match=r"x\.parquet cannot be read as parquet"):
        read_rows(path)


def test_what_was_proposed_reads_the_file(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("text;label\na, b;pos\n")
    assert read_rows(path, Dialect(delimiter="semicolon")) == [{"text": "a, b", "label": "pos"}]
    assert read_rows(path, Dialect(delimiter=";"))[0]["text"] == "a, b"
    path.write_text("text;label\na b\n")
    assert read_rows(path, Dialect(delimiter="comma")) == [{"text;label": "a b"}]
    path = tmp_path / "x.tsv"
    path.write_text('text\tlabel\n"a ""b"""\tpos\n')
    assert read_rows(path, Dialect(quoting=True))[0]["text"] == 'a "b"'
    assert read_rows(path, Dialect(quoting=False))[0]["text"] == '"a ""b"""'
    path = tmp_path / "y.csv"
    path.write_text('text,label\n"b" c,neg\n')
    assert read_rows(path, Dialect(quoting=False))[0]["text"] == '"b" c'


ENCODED = [
    ("latin-1", "text,label\ncafé,pos\n", "line 2.*encoding=latin-1"),
    ("cp1252", "text,label\n“a”,pos\n", "line 2.*encoding=cp1252"),
    ("utf-16", "text,label\ncafé,pos\n", "encoding=utf-16"),
    ("utf-16-le", "text,label\nabc,pos\n", "encoding=utf-16-le"),
    ("utf-16-be", "text,label\ncafé,pos\n", "encoding=utf-16-be"),
    ("utf-32", "text,label\nabc,pos\n", "encoding=utf-32"),
    ("cp1251", "text,label\nфильм,pos\n", "task.encoding=.*cp1251"),
    ("cp1251", "text,label\n" + "фильм был хорош,pos\n" * 9, "nor of a Western.*encoding.*cp1251"),
    (
        "gb18030",
        "text,label\n" + "电影很好看我喜欢,pos\n" * 9,
        "nor of a Western.*encoding.*gb18030",
    ),
]


@pytest.mark.parametrize(("encoding", "text", "said"), ENCODED)
@pytest.mark.parametrize("compressed", [False, True])
def test_another_encoding_is_proposed_and_then_read(tmp_path, encoding, text, said, compressed):
    path = tmp_path / ("x.csv.gz" if compressed else "x.csv")
    data = text.encode(encoding)
    path.write_bytes(gzip.compress(data) if compressed else data)
    with pytest.raises(UserError, match=said):
        read_rows(path)
    text_column = text.splitlines()[1].split(",")[0]
    assert read_rows(path, Dialect(encoding))[0] == {"text": text_column, "label": "pos"}


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    for suffix, text in ((".csv", GOOD), (".json", '[{"text": "a"}]'), (".jsonl", '{"text": "a"}')):
        path = tmp_path / f"x{suffix}"
        path.write_text(text, encoding="utf-8-sig")
        for dialect in (None, Dialect("utf-8"), Dialect("UTF8")):
            assert "text" in read_rows(path, dialect)[0]


def test_utf8_read_as_something_else_is_told(tmp_path, caplog):
    path = tmp_path / "x.csv"
    path.write_text("text,label\ncafé,pos\n", encoding="utf-8")
    read_rows(path, Dialect("latin-1"))
    assert "UTF-8" in caplog.text


def test_a_damaged_gz_and_unknown_names(tmp_path):
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(b"text,label\n" * 99)[:-12])
    with pytest.raises(UserError, match=r"cannot read .*x\.csv\.gz"):
        read_rows(path)
    (tmp_path / "y.csv").write_bytes(gzip.compress(b"text,label\n"))
    with pytest.raises(UserError, match=r"y\.csv .*gzip.*\.gz"):
        read_rows(tmp_path / "y.csv")
    for wrong in ({"encoding": "latin-99"}, {"encoding": "base64"}):
        with pytest.raises(UserError, match=r"encoding=.*latin-1"):
            Dialect(**wrong)
    for given in ("semi", ",,", "", '"', "\n"):
        with pytest.raises(UserError, match=r"task\.delimiter=.*semicolon"):
            Dialect(delimiter=given)


def test_rows_know_their_line(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b'text,label\r\n"a\r\nb",pos\r\n\r\nc,neg\r\n')
    assert [row.place for row in read_rows(path)] == [f"line {n} of {path}" for n in (2, 5)]
    path = tmp_path / "x.json"
    path.write_text('[\n  {"a": 1},\n\n  {"a":\n 2},\n  {"a": 3}]')
    assert [row.number for row in read_rows(path)] == [2, 4, 6]
    path.write_text('[{"a": 1}, {"a": 2}]')  # no use in calling both line 1
    assert [row.place for row in read_rows(path)] == [f"row {n} (from 0) of {path}" for n in (0, 1)]


def test_a_quotation_mark_that_holds_rows_together_is_told(tmp_path, caplog):
    path = tmp_path / "x.csv"
    path.write_text('text,label\na,pos\n"b,neg\nc,pos\nd,neg\ne",pos\n')
    read_rows(path)
    assert "line 3" in caplog.text
    caplog.clear()
    path.write_text('text,label\n"a\n\nb: c\nd",pos\n')  # a text of some lines
    read_rows(path)
    assert not caplog.text


def test_a_space_before_a_quotation_mark_is_told(tmp_path, caplog):
    path = tmp_path / "x.csv"
    path.write_text('text,label\na, "pos"\n')
    assert read_rows(path) == [{"text": "a", "label": ' "pos"'}]
    assert "line 2" in caplog.text


def test_a_spreadsheet_says_its_delimiter(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("sep=;\ntext;label\na, b;pos\n")
    (row,) = read_rows(path)
    assert (row, row.number) == ({"text": "a, b", "label": "pos"}, 3)


def test_long_cells_and_cells_of_words_that_mean_nothing(tmp_path):
    path = tmp_path / "x.csv"
    long = "word " * 100_000
    path.write_text(f"text,label\n{long},NA\nnull,None\n")
    assert read_rows(path) == [{"text": long, "label": "NA"}, {"text": "null", "label": "None"}]


def test_columns_without_a_name(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(",text,label,\n0,a,pos,\n")  # as pandas writes it, and a spreadsheet
    assert read_rows(path)[0] == {"Unnamed: 0": "0", "text": "a", "label": "pos", "Unnamed: 3": ""}


def test_parquet_as_others_write_it(tmp_path):
    path = tmp_path / "x.parquet"
    numbers = pyarrow.array([2**62 + 1, None])
    parquet.write_table(pyarrow.table({"a": numbers, "__index_level_0__": [7, 8]}), path)
    assert read_rows(path) == [{"a": 2**62 + 1}, {"a": None}]
    parquet.write_table(pyarrow.table([numbers, numbers], names=["a", "a"]), path)
    with pytest.raises(UserError, match=r"several columns.*'a'"):
        read_rows(path)


# What is no text and no label, in the formats that can hold it.
OBJECTS = [
    ({"text": {"body": "x"}, "label": "pos"}, "line 3 .*object.*'text'"),
    ({"text": ["x", "y"], "label": "pos"}, "line 3 .*list.*'text'"),
    ({"text": None, "label": "pos"}, "line 3 .*no text.*'text'"),
    ({"label": "pos"}, "line 3 .*no text.*'text'"),
    ({"text": float("nan"), "label": "pos"}, "line 3 .*no text"),
    ({"text": float("inf"), "label": "pos"}, "line 3 .*inf.*'text'"),
    ({"text": "x", "label": [0, 1]}, "line 3 .*'label'.*list"),
    ({"text": "x", "label": {"name": "pos"}}, "line 3 .*'label'.*object"),
    ({"text": "x", "label": float("-inf")}, "line 3 .*'label'.*finite"),
    ({"text": "x", "label": float("nan")}, "line 3 .*unlabelled.*'label'"),
    ({"text": "x", "label": None}, "line 3 .*unlabelled.*'label'"),
    ({"text": "x"}, "line 3 .*unlabelled.*'label'"),
    ({"text": "x", "label": " "}, "line 3 .*unlabelled.*'label'"),
]
ROWS = [{"text": "a", "label": "pos"}, {"text": "b", "label": "neg"}]


@pytest.mark.parametrize(("row", "said"), OBJECTS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_objects_are_no_texts_and_no_labels(tmp_path, row, said, split):
    for name in ("train", "test"):
        rows = [*ROWS, row] if name == split else ROWS
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=said.replace(" .*", rf" of .*{split}.*", 1)):
        Classification(data_dir=str(tmp_path), text_columns=["text"]).load()


@pytest.mark.parametrize(
    ("text", "label", "said"),
    [
        (pyarrow.array([b"a", b"b"]), ["x", "y"], r"row 0 .*bytes.*'text'"),
        (pyarrow.array([["a"], ["b"]]), ["x", "y"], r"row 0 .*list.*'text'"),
        (pyarrow.array(["a", "b"]), [b"x", b"y"], r"row 0 .*'label'.*bytes"),
        (pyarrow.array(["a", "b"]), [[0, 1], [1]], r"row 0 .*'label'.*list"),
        (pyarrow.array(["a", "b"]), [{"n": 0}, {"n": 1}], r"row 0 .*'label'.*object"),
        (pyarrow.array(["a", None]), ["x", "y"], r"row 1 .*no text"),
        (pyarrow.array(["a", "b"]), ["x", None], r"(needs at least two|row 1 .*unlabelled)"),
    ],
)
def test_parquet_of_bytes_and_lists(tmp_path, text, label, said):
    for name in ("train", "test"):
        table = pyarrow.table({"text": text, "label": pyarrow.array(label)})
        parquet.write_table(table, tmp_path / f"{name}.parquet")
    with pytest.raises(UserError, match=said):
        Classification(data_dir=str(tmp_path), text_columns="text").load()


class Letters:
    """A tokenizer that knows nothing."""

    def decode(self, tokens, skip_special_tokens):
        return "x" * len(tokens)


IDS = {"input_ids": [1, 2]}


def of_classes(row):
    return labelled(row, "row 3", 2, None)


def of_numbers(row):
    return labelled(row, "row 3", 1, None)


@pytest.mark.parametrize(
    ("read", "row", "said"),
    [
        (of_classes, {"label": [0, 1]}, r"row 3 .*\[0, 1\]"),
        (of_classes, {"label": {"a": 1}}, "row 3 .*label"),
        (of_classes, {"label": b"1"}, "row 3 .*label"),
        (of_classes, {"label": np.array([0, 1])}, "row 3 .*label"),
        (
            lambda row: labelled(row, "row 3", 1, None),
            {"label": [0.5, 1.0]},
            "row 3.*finite number",
        ),
        (of_numbers, {"label": None}, "row 3.*finite number"),
        (
            lambda row: labelled(row, "row 3", 1, None),
            {"label": float("nan")},
            "row 3.*finite number",
        ),
        (
            lambda row: tagged(row, "row 3", ["O", "B-A"], None),
            {"labels": [0, 1], "words": ["a", {"b": 1}]},
            "row 3 .*object.*'words'",
        ),
        (
            lambda row: written(row, "row 3", Letters(), False, None),
            {"labels": [-100, 1], "references": [{"a": 1}]},
            "row 3 .*object.*'references'",
        ),
    ],
)
def test_objects_are_no_labels_in_rows_of_python(read, row, said):
    with pytest.raises(UserError, match=said):
        read(IDS | row)


def test_good_rows_of_python():
    assert labelled(IDS | {"label": np.array(2.5)}, "row", 1, None).label == 2.5
    assert labelled(IDS | {"label": np.int64(1)}, "row", 2, None).label == 1
    row = IDS | {"labels": [-100, 1]}
    assert written(row, "row", Letters(), False, None).references == ("x",)
    assert written(row | {"references": "a"}, "row", Letters(), False, None).references == ("a",)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"source": {"a": 1}, "target": "x"}, "line 2 .*object.*'source'"),
        ({"source": "a", "target": {"b": 1}}, "line 2 .*object.*'target'"),
        ({"source": "a", "target": [["b"]]}, "line 2 .*list.*'target'"),
    ],
)
def test_objects_are_no_sources_and_no_targets(tmp_path, row, said):
    rows = [{"source": "a", "target": ["b", "c"]}, row]
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=said):
        TextToText(data_dir=str(tmp_path)).load()
