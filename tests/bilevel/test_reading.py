"""Text and JSON that may be damaged or somebody else's."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bilevel import reading
from bilevel.errors import UserError, printable

WRONG = {
    "empty": b"",
    "blanks": b" \n",
    "cut": b'{"a": [1, 2',
    "garbage": bytes(range(256)),
    "not utf-8": '{"a": "é"}'.encode("latin-1"),
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "zeros": bytes(100),
    "two": b"{} {}",
    "deep": b"[" * 100000,
    "deep and whole": b"[" * 200 + b"]" * 200,
    "digits": b'{"a": ' + b"1" * 10000 + b"}",
    "a surrogate": b'{"a": "\\ud800"}',
    "a surrogate key": b'{"\\udfff": 1}',
    "twice": b'{"a": {"b": 1, "b": 2}}',
    "a list": b"[1]",
    "null": b"null",
    "a text": b'"x"',
    "a number": b"7",
}


@pytest.mark.parametrize("name", WRONG)
def test_damage_is_told_with_the_file_s_name(name, tmp_path):
    path = tmp_path / "some.json"
    path.write_bytes(WRONG[name])
    with pytest.raises(UserError, match=r"some\.json is damaged"):
        reading.json_object(path)


def test_what_is_no_file(tmp_path):
    with pytest.raises(UserError, match="missing"):
        reading.json_object(tmp_path / "x")
    with pytest.raises(UserError, match="no file"):
        reading.json_object(tmp_path)
    os.mkfifo(tmp_path / "pipe")  # reading it would never end
    with pytest.raises(UserError, match="no file"):
        reading.read_text(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"x" * 11)
    with pytest.raises(UserError, match="larger"):
        reading.read_text(tmp_path / "large", 10)


def test_a_key_that_is_needed(tmp_path):
    (tmp_path / "x").write_text('\ufeff{"a": 1}', encoding="utf-8")
    assert reading.json_object(tmp_path / "x", needs=("a",)) == {"a": 1}
    with pytest.raises(UserError, match="'b'"):
        reading.json_object(tmp_path / "x", needs=("a", "b"))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=60))
def test_bytes_are_a_value_or_a_sentence(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "drawn.json"
    path.write_bytes(content)
    found, told = {}, "drawn.json"
    try:
        found = reading.json_object(path)
    except UserError as error:
        told = str(error)
    assert isinstance(found, dict)
    assert "drawn.json" in told


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(st.characters(codec=None), max_size=30))
def test_what_is_printed_moves_no_cursor(text):
    shown = printable(text)
    assert all(c in "\n\t" or (c >= " " and not "\x7f" <= c <= "\x9f") for c in shown)
    shown.encode()  # half a character cannot be


def test_plain_text_stays():
    assert printable("Größe, 漢字, שלום\n\tx") == "Größe, 漢字, שלום\n\tx"
    assert printable("\x1b[31mred\r\x9b2J\u202e") == "\\x1b[31mred\\r\\x9b2J\\u202e"
