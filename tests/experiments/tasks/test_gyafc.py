"""GYAFC: formal or informal, from the files of one of its domains."""

from __future__ import annotations

from pathlib import Path

import pytest

from bilevel import UserError
from experiments.style_transfer.sentences import Columns, read_sentences
from experiments.tasks.gyafc import Gyafc

LINES = {
    "train/informal": ["u r late", "gotta go", "dunno"],
    "train/formal": ["You are late.", "I must leave.", "I do not know."],
    "tune/informal": ["cant wait"],
    "tune/formal": ["I am looking forward to it."],
    "test/informal": ["whats up", "thx"],
    "test/formal": ["How are you?"],
    "test/formal.ref0": ["How are you?", "Thank you."],
    "test/formal.ref1": ["What is happening?", ""],
    "test/informal.ref0": ["hows it going"],
}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for name, lines in LINES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        text = "\n".join(lines) + "\n"
        (tmp_path / name).write_text(text, encoding="utf-8-sig" if "formal" in name else "utf-8")
    return tmp_path


def test_it_is_a_task_of_two_classes_with_a_validation_set(corpus: Path) -> None:
    data = Gyafc(data_dir=str(corpus)).load()
    assert data.label_names == ["informal", "formal"]
    assert [(e.texts[0], e.label) for e in data.tests["test"]] == [
        ("whats up", 0),
        ("thx", 0),
        ("How are you?", 1),
    ]
    assert [e.label for e in data.train] == [0, 0, 0, 1, 1, 1]
    assert data.validation is not None
    assert [e.texts[0] for e in data.validation] == ["cant wait", "I am looking forward to it."]


def test_its_test_set_is_what_is_transferred_with_all_rewrites(corpus: Path) -> None:
    found = read_sentences(str(corpus), Columns(), None)
    assert [tuple(sentence) for sentence in found] == [
        ("whats up", 0, ("How are you?", "What is happening?")),
        ("thx", 0, ("Thank you.",)),
        ("How are you?", 1, ("hows it going",)),
    ]


@pytest.mark.parametrize(
    ("name", "lines", "words"),
    [
        ("test/formal.ref1", ["one"], r"formal.ref1 has 1 lines.*2"),
        ("train/formal", [], "train/formal is empty"),
        ("tune/informal", ["a", "", "b"], "line 2 of .*informal is blank"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(
    corpus: Path, name: str, lines: list[str], words: str
) -> None:
    (corpus / name).write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=words):
        Gyafc(data_dir=str(corpus)).load()


def test_what_is_missing_is_told(corpus: Path) -> None:
    with pytest.raises(UserError, match=r"task.data_dir=DIR"):
        Gyafc()
    (corpus / "tune" / "formal").unlink()
    with pytest.raises(UserError, match=r"no file tune/formal.*GYAFC"):
        Gyafc(data_dir=str(corpus)).load()
    (corpus / "test" / "informal").write_bytes(b"caf\xe9\n")
    with pytest.raises(UserError, match=r"informal is not UTF-8.*task\.encoding=latin-1"):
        read_sentences(str(corpus), Columns(), None)


def test_a_device_among_the_rewrites_is_not_read(corpus: Path) -> None:
    """A link to /dev/zero in somebody else's folder would fill the memory."""
    (corpus / "test" / "formal.ref2").symlink_to("/dev/null")
    with pytest.raises(UserError, match=r"formal\.ref2 is no file"):
        Gyafc(data_dir=str(corpus)).load()
