"""Random tables, written in every format, dialect and encoding, are read back as they were."""

import csv
import gzip
import io
import json
import re
import tempfile
from pathlib import Path

import pyarrow
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from experiments.tasks.reading.dialect import NAMES, Dialect
from experiments.tasks.reading.files import read_rows
from experiments.tasks.reading.sentences import read_sentences

EXAMPLES = settings(max_examples=40, deadline=None, derandomize=True)

ANY = st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff")
# Of what an encoding can write; a byte-order mark in the middle and NUL are no text.
ENCODINGS = {
    "utf-8": ANY,
    "utf-8-sig": ANY,
    "utf-16": ANY,
    "utf-16-le": ANY,
    "utf-32": ANY,
    "latin-1": st.sampled_from("aé\x80\x85\xa0ÿ"),
    "cp1252": st.sampled_from("aé€“”\xa0ÿ"),
    "shift_jis": st.sampled_from("a映画は良いｱ"),
    "gb18030": st.sampled_from("a电影é€\U0001f600"),
}
# What means something to a reader of tables.
HARD = st.sampled_from([*",;|:\t\"'\n\r #=\\", "\r\n", '""', "null", "NA", "nan", "007", "1.0"])
NAMED = st.lists(st.sampled_from(["text", "label", "a b", " c", "é", "#d", "0"]), unique=True)


def texts(character):
    return st.lists(character | HARD, max_size=5).map("".join)


@st.composite
def tables(draw, cells, least=1, names=NAMED):
    """Rows of the same columns."""
    columns = draw(names.filter(lambda found: least <= len(found) <= 4))
    row = st.tuples(*[cells] * len(columns)).map(lambda row: dict(zip(columns, row, strict=True)))
    return draw(st.lists(row, min_size=1, max_size=5))


def written(data, name, encoding, compressed):
    """A file in a folder of its own."""
    folder = Path(tempfile.mkdtemp())
    path = folder / (name + ".gz" * compressed)
    data = data.encode(encoding) if isinstance(data, str) else data
    path.write_bytes(gzip.compress(data) if compressed else data)
    return path


def dialect_of(encoding, **other):
    plain = encoding.startswith("utf-8")  # with a mark or without one, nobody has to say
    return Dialect(None if plain else encoding, **other)


@EXAMPLES
@given(st.data())
def test_csv(data):
    encoding = data.draw(st.sampled_from(sorted(ENCODINGS)))
    names = NAMED.filter(lambda found: "é" not in found) if encoding == "shift_jis" else NAMED
    rows = data.draw(tables(texts(ENCODINGS[encoding]), 2, names))
    name = data.draw(st.sampled_from(sorted(NAMES)))
    file = io.StringIO()
    end = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    # A lone \r at the end of a cell would be part of \r\n, and Python's writer does not quote it.
    quoted = data.draw(st.booleans()) or any(
        "\r" in v or "\n" in v for r in rows for v in r.values()
    )
    quoting = csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
    writer = csv.writer(file, delimiter=NAMES[name], quoting=quoting, lineterminator=end)
    writer.writerow(rows[0])
    for row in rows:
        file.write(data.draw(st.sampled_from(["", "", "\n"])))  # a blank line
        writer.writerow(row.values())
    suffix = data.draw(st.sampled_from([".csv", ".tsv", ".CSV"]))
    path = written(file.getvalue(), f"train{suffix}", encoding, data.draw(st.booleans()))
    assert read_rows(path, dialect_of(encoding, delimiter=name, quoting=True)) == rows


@EXAMPLES
@given(st.data())
def test_csv_as_it_is_read_without_options(data):
    rows = data.draw(tables(texts(ANY), 2))
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    assert read_rows(written(file.getvalue(), "train.csv", "utf-8", False)) == rows


@EXAMPLES
@given(st.data())
def test_tsv_of_glue_has_no_quotation(data):
    encoding = data.draw(st.sampled_from(["utf-8", "utf-8-sig", "latin-1"]))
    cells = texts(ENCODINGS[encoding]).map(lambda text: re.sub("[\t\r\n]", " ", text))
    rows = data.draw(tables(cells, 2))
    lines = ["\t".join(rows[0]), *("\t".join(row.values()) for row in rows)]
    text = data.draw(st.sampled_from(["\n", "\r\n"])).join(lines)
    path = written(text, "train.tsv", encoding, data.draw(st.booleans()))
    assert read_rows(path, dialect_of(encoding, quoting=False)) == rows


VALUES = (
    st.text(ANY, max_size=8)
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
    | st.none()
    | st.lists(st.text(ANY, max_size=3), max_size=3)
)


@EXAMPLES
@given(st.data())
def test_json(data):
    encoding = data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]))
    rows = data.draw(tables(VALUES))
    ascii_only = encoding == "latin-1" or data.draw(st.booleans())
    if data.draw(st.booleans()):
        text = json.dumps(
            rows, ensure_ascii=ascii_only, indent=data.draw(st.sampled_from([None, 1]))
        )
        suffix = data.draw(st.sampled_from([".json", ".jsonl"]))
    else:
        end = data.draw(st.sampled_from(["\n", "\r\n", "\n\n"]))
        text = end.join(json.dumps(row, ensure_ascii=ascii_only) for row in rows) + end
        lone = len(rows) == 1 and any(isinstance(v, list) for v in rows[0].values())
        suffix = ".jsonl" if lone else data.draw(st.sampled_from([".json", ".jsonl"]))
    path = written(text, f"train{suffix}", encoding, data.draw(st.booleans()))
    assert read_rows(path, dialect_of(encoding)) == rows


COLUMNS = st.sampled_from(
    [
        (pyarrow.string(), st.text(ANY, max_size=8) | st.none()),
        (pyarrow.int64(), st.integers(-(2**63), 2**63 - 1) | st.none()),
        (pyarrow.float64(), st.floats(allow_nan=False) | st.none()),
        (pyarrow.bool_(), st.booleans() | st.none()),
        (pyarrow.binary(), st.binary(max_size=4)),
        (pyarrow.list_(pyarrow.string()), st.lists(st.text("ab", max_size=3), max_size=3)),
        (pyarrow.dictionary(pyarrow.int32(), pyarrow.string()), st.sampled_from(["good", "bad"])),
    ]
)


@EXAMPLES
@given(st.data())
def test_parquet(data):
    size = data.draw(st.integers(1, 6))
    columns = {}
    for name in data.draw(
        st.lists(st.text("abc", min_size=1), min_size=1, max_size=4, unique=True)
    ):
        kind, values = data.draw(COLUMNS)
        cells = data.draw(st.lists(values, min_size=size, max_size=size))
        columns[name] = pyarrow.array(cells, kind)
    table = pyarrow.table(columns)
    path = written(b"", "train.parquet", "utf-8", False)
    parquet.write_table(table, path)
    expected = {name: array.to_pylist() for name, array in columns.items()}
    found = read_rows(path)
    assert {name: [row[name] for row in found] for name in columns} == expected


WORD = st.text(
    ANY.filter(lambda character: character not in " \t\r\n"),
    min_size=1,
    max_size=5,
).filter(lambda word: not word.startswith(("-DOCSTART-", "###MEDLINE:", "#")))
TAG = st.sampled_from(["O", "B-PER", "I-PER", "B-LOC"])


@EXAMPLES
@given(st.data())
def test_conll(data):
    pairs = st.lists(st.tuples(WORD, TAG), min_size=1, max_size=5)
    sentences = data.draw(st.lists(pairs, min_size=1, max_size=4))
    numbered = data.draw(st.booleans())
    between = data.draw(st.sampled_from(["\t", " ", "  "]))
    end = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    marks = data.draw(st.booleans())
    lines = ["-DOCSTART- -X- O O", ""] if marks else []
    for sentence in sentences:
        for number, (word, tag) in enumerate(sentence, start=1):
            cells = [str(number), word, "NN", tag] if numbered else [word, "NN", tag]
            lines.append(between.join(cells))
        lines += [""] * data.draw(st.integers(1, 2))
    encoding = data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    suffix = data.draw(st.sampled_from([".conll", ".iob2", ".txt", ".tsv"]))
    path = written(end.join(lines), f"train{suffix}", encoding, data.draw(st.booleans()))
    columns = ("1", "-1") if numbered else ("0", "2")
    found = list(read_sentences([path], columns, (), dialect_of(encoding)))
    assert [list(zip(s.words, s.tags, strict=True)) for s in found] == sentences
