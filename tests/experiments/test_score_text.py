"""The program that scores files."""

import pytest

from bilevel.errors import UserError
from experiments import score_text
from experiments.score_text import read_references, read_texts


@pytest.fixture
def files(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_layouts_of_references(files):
    groups = files("groups", "a b\nc\n\nd\n\n\ne\n\n")
    assert read_references([groups], 3) == [["a b", "c"], ["d"], ["e"]]
    lines = files("lines", "a\nb\nc\n")
    assert read_references([lines], 3) == [["a"], ["b"], ["c"]]
    assert read_references([lines], 1) == [["a", "b", "c"]]  # one group
    second = files("second", "x\n\nz\n")
    assert read_references([lines, second], 3) == [["a", "x"], ["b"], ["c", "z"]]


def test_an_empty_line_is_an_empty_hypothesis(files):
    assert read_texts(files("a", "one\n\n three \u2028 \n")) == ["one", "", "three"]
    assert read_texts(files("b", "one\n")) == ["one"]


def test_it_prints_a_table(files, capsys):
    hypotheses = files("hypotheses", "The cat sat on a mat\n\n")
    references = files("references", "the cat sat on the mat\n\nsomething\n")
    words = [f"hypotheses={hypotheses}", f"references={references}", "metrics=ter,rougeL"]
    score_text.main(words)
    first, ter, rouge = capsys.readouterr().out.splitlines()
    assert first == "2 texts, 2 references"
    # two edits (a word, a whole text of one word) of seven words
    assert ter.split()[:2] == ["ter", "28.5714"]
    assert rouge.split()[:2] == ["rougeL", "41.6667"]  # (5/6 + 0) / 2


def test_words_are_cut_by_the_script_or_as_asked(files, capsys):
    hypotheses, references = files("h", "我们去公园\n"), files("r", "我们去公园\n")
    words = [f"hypotheses={hypotheses}", f"references={references}", "metrics=bleu"]
    score_text.main(words)
    assert "100.0000" in (row := capsys.readouterr().out.splitlines()[1])
    assert "tok:zh" in row
    score_text.main([*words, "metrics.tokenize=13a"])  # a sentence is one word, which BLEU is 0 of
    row = capsys.readouterr().out.splitlines()[1]
    assert row.split()[1] == "-"
    assert "equal" in row


def test_a_byte_order_mark_is_no_word(files):
    assert read_texts(files("a", "\ufeffone\ntwo\n")) == ["one", "two"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hypotheses=x", "references=x", "metrics=bleu", "metrics.tokenize=zhh"], "tokenize=zhh"),
        (["hypothesis=x"], "did you mean 'hypotheses'"),
        (["hypotheses=x"], "references= is needed"),
        (["hypotheses=none", "references=none", "metrics=bleu"], "cannot read none: No such file"),
    ],
)
def test_mistakes_end_in_a_sentence(words, message, capsys):
    with pytest.raises(SystemExit):
        score_text.main(words)
    assert message in capsys.readouterr().err


def test_lengths_that_differ(files):
    path = files("a", "x\n\ny\n")
    with pytest.raises(UserError, match=r"3, .*references.*2"):
        score_text.score_text(["bleu"], read_texts(path), read_references([path], 3))


def test_a_file_of_references_that_ends_early_is_refused(tmp_path):
    for name, text in (("a", "one\ntwo\nthree\n"), ("b", "uno\n"), ("c", "eins\n\n\n\n\n")):
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=r"b has 1 lines and .*a has 3"):
        read_references([tmp_path / "a", tmp_path / "b"], 3)
    found = read_references([tmp_path / "a", tmp_path / "c"], 3)
    assert found[:3] == [["one", "eins"], ["two"], ["three"]]
