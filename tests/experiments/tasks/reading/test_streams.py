"""Files read row by row: the same rows and the same refusals as of a file read whole."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bilevel.errors import UserError
from experiments.tasks.reading import text
from experiments.tasks.reading.dialect import Dialect
from experiments.tasks.reading.files import each_row, read_rows
from experiments.tasks.reading.lines import words_of_lines
from experiments.tasks.reading.text import lines_in, text_pieces

CELLS = st.text(st.sampled_from("aé日😀 ,;\"'\r\n\t"), max_size=8).filter(str.strip)


@pytest.fixture(params=[1, 3, 7])
def small(request, monkeypatch):
    """Pieces of a few bytes: characters, line ends and quotation marks are cut everywhere.

    But for the first twelve, by which a file is told that is no text.
    """
    monkeypatch.setattr(text, "PIECE", request.param)
    monkeypatch.setattr(text, "LOOKED_AT", 12)


def outcome(read):
    """Rows, or what is told."""
    try:
        return list(read())
    except UserError as error:
        return str(error)


FILES = {
    "a.csv": 'n,text\r\n1,"é, ""so"" \r\n and so"\r\n\r\n2,日本\r\n',
    "b.csv": "sep=;\nn;text\n1;é\n",
    "c.tsv": 'n\ttext\n1\ta "b" c\n',
    "d.tsv": '"n"\t"text"\n"1"\t"a ""b"" c"\n',
    "e.csv": 'n,text\n1,"open\n2,x\n',
    "f.csv": "n,text\n1,a\n2,b,c\n",
    "g.csv": "n,text\n1,a\nn,text\n",
    "h.csv": "n;text\n1;a\n",
    "i.jsonl": '{"n": 1, "text": "é"}\r\n\n{"n": 0.1, "text": null}\n',
    "x.jsonl": " \n" * 9 + '{"n": 1}\n{"n": 2}\n',
    "y.json": "\n" * 9 + '[{"n": 1},\n{"n": 2}]',
    "j.json": '[{"n": 1},\n {"n": 2}]',
    "k.json": '{"n": {"a": 1}}',
    "l.jsonl": '{"n": {"a": 1}}',
    "m.jsonl": '{"n": 1}\n{"n": "\\ud83d"}\n',
    "n.jsonl": '{"n": 1}\n{"n": 1, "n": 2}\n',
    "o.csv": b"n,text\n1,\xe9\n",
    "p.csv": b"\xef\xbb\xbfn,text\n1,a\n",
    "q.csv": b"n,text\n1,a\0b\n",
    "r.csv": "n,text\n1,a\n".encode("utf-16"),
    "s.jsonl": b"",
    "t.csv.gz": gzip.compress(b"n,text\n1,a\n"),
    "u.csv.gz": gzip.compress(b"n,text\n1,a\n")[:-9],
    "v.csv": b"PK\x03\x04 and more",
    "w.csv": 'n,text\n1, "a"\n2,"b\n1,x\n1,y\n"\n',
}


@pytest.mark.parametrize("name", FILES)
def test_pieces_change_nothing(name, tmp_path, small, caplog):
    path = tmp_path / name
    content = FILES[name]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    whole = outcome(lambda: each_row(path, whole=True))
    told = caplog.messages
    caplog.clear()
    pieces = outcome(lambda: each_row(path))
    if isinstance(whole, str) and name[0] != "o":  # there it is guessed by what follows
        assert pieces == whole
    elif isinstance(whole, str):
        assert pieces.partition(":")[0] == whole.partition(":")[0]
    else:
        assert [(row, row.place) for row in pieces] == [(row, row.place) for row in whole]
    assert caplog.messages == told


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5), size=st.integers(1, 9))
def test_any_text_comes_back(rows, size, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    before, text.PIECE, text.LOOKED_AT = (text.PIECE, text.LOOKED_AT), size, size
    try:
        quoted = ['"' + cell.replace('"', '""') + '"' for row in rows for cell in row]
        lines = [f"{quoted[i]},{quoted[i + 1]}" for i in range(0, len(quoted), 2)]
        (folder / "a.csv").write_bytes(("a,b\n" + "\n".join(lines)).encode())
        objects = [json.dumps({"a": a, "b": b}, ensure_ascii=False) for a, b in rows]
        (folder / "a.jsonl").write_bytes("\n".join(objects).encode())
        for name in ("a.csv", "a.jsonl"):
            found = [(row["a"], row["b"]) for row in each_row(folder / name)]
            assert found == rows
            assert found == [(row["a"], row["b"]) for row in read_rows(folder / name)]
    finally:
        text.PIECE, text.LOOKED_AT = before


@pytest.mark.parametrize("ends", [None, "\n"])
def test_lines_are_those_of_the_whole(ends, small, tmp_path):
    content = "a\r\nb\rc\n\n\r\r\nd"
    (tmp_path / "a.txt").write_bytes(content.encode())
    found = list(lines_in(text_pieces(tmp_path / "a.txt"), ends))
    assert found == list(lines_in([content], ends))
    assert "".join(found) == content


def test_the_line_of_what_no_encoding_has(small, tmp_path):
    """Counted over the pieces before it."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"text\n" + b"good\n" * 40 + b"caf\xe9\n" + b"bad\n")
    with pytest.raises(UserError, match="byte 0xe9 in line 42"):
        list(each_row(path))
    with pytest.raises(UserError, match="byte 0xe9 in line 42"):
        read_rows(path)
    found = [row["text"] for row in each_row(path, Dialect(encoding="latin-1"))]
    assert found[40] == "café"


def test_memory_does_not_grow_with_the_file(tmp_path):
    """Rows come before the end of the file is read."""
    pieces = iter(["text\n", "a\nb\n", 1 / 1])
    path = Path("x.csv")
    from experiments.tasks.reading.delimited import delimited_rows

    rows = delimited_rows(pieces, path, ",", Dialect())
    assert next(rows)["text"] == "a"
    assert next(pieces) == 1.0


def test_words_without_tags(small, tmp_path):
    path = tmp_path / "a.conll"
    path.write_text("-DOCSTART-\n\nEU\nrejects\n\n\nit\n")
    rows = list(words_of_lines(text_pieces(path), path, "tokens", Dialect()))
    assert rows == [{"tokens": ["EU", "rejects"]}, {"tokens": ["it"]}]
    assert [row.number for row in rows] == [3, 7]
    path.write_text("1 EU NNP\n2 rejects VBZ\n\n1 it PRP\n")
    with pytest.raises(UserError, match=r"task\.tokens_column=1"):
        list(words_of_lines(text_pieces(path), path, "tokens", Dialect()))
    rows = list(words_of_lines(text_pieces(path), path, "1", Dialect()))
    assert [row["1"] for row in rows] == [["EU", "rejects"], ["it"]]
