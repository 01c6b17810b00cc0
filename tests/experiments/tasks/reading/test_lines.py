"""Words and tags a line each: numbered words, comments, columns that vary."""

import pytest

from bilevel.errors import UserError
from experiments.tasks.examples import TaggedExample
from experiments.tasks.reading.dialect import Dialect
from experiments.tasks.reading.files import read_rows
from experiments.tasks.reading.lines import words_of_lines
from experiments.tasks.tagging import Tagging
from tests.experiments.placed import said

EXAMPLES = [TaggedExample(("EU", "rejects"), ("B-ORG", "O")), TaggedExample(("it",), ("O",))]
PLAIN = "EU B-ORG\nrejects O\n\nit O\n"
NUMBERED = "1 EU NNP B-NP B-ORG\n2 rejects VBZ B-VP O\n\n1 it PRP B-NP O\n"


def load(folder, text, name="{}.conll", **options):
    for split in ("train", "test"):
        (folder / name.format(split)).write_bytes(text.encode())
    return Tagging(str(folder), **options).load()


THROUGH = NUMBERED.replace("\n1 it", "\n3 it")
FROM_0 = NUMBERED.replace("1 EU", "0 EU").replace("2 rej", "1 rej").replace("1 it", "0 it")
RANGES = NUMBERED.replace("2 rej", "2-3 x X _ O\n2.1 y Y _ O\n2 rej")


@pytest.mark.parametrize("text", [NUMBERED, NUMBERED.replace(" ", "\t"), THROUGH, FROM_0, RANGES])
def test_numbers_are_not_taken_for_words(tmp_path, text):
    with pytest.raises(UserError, match=r"counts.*task\.tokens_column=1 task\.tags_column=-1"):
        load(tmp_path, text)


@pytest.mark.parametrize("tags", [4, -1, "4", "-1", "ner_tags"])
@pytest.mark.parametrize("tokens", [1, "1", -4])
def test_positions(tmp_path, tokens, tags):
    data = load(tmp_path, NUMBERED, tokens_column=tokens, tags_column=tags)
    assert said(data.train) == EXAMPLES


def test_another_layer_of_tags(tmp_path):
    data = load(tmp_path, NUMBERED, tokens_column=1, tags_column=3)
    assert data.train[0].tags == ("B-NP", "B-VP")


def test_words_that_are_numbers(tmp_path):
    data = load(tmp_path, "7 B-A\n2 O\n\n3 O\n")
    assert data.train[0].words == ("7", "2")
    assert load(tmp_path, "1 x B-A\nof x O\n").train[0].words == ("1", "of")
    first = load(tmp_path, NUMBERED, tokens_column=0, tags_column=-1)  # who says so means it
    assert first.train[0].words == ("1", "2")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tokens_column": 5}, r"tokens_column=5.*5 columns"),
        ({"tags_column": -6}, r"tags_column=-6.*5 columns"),
        ({"tokens_column": "words"}, r"tokens_column=words.*no names.*position"),
        ({"tokens_column": 4, "tags_column": -1}, r"tokens_column=4.*tags_column=-1.*one column"),
        ({"tokens_column": 1.5}, r"tokens_column"),
        ({"delimiter": "semi"}, r"delimiter.*semicolon"),
    ],
)
def test_wrong_positions(tmp_path, options, said):
    with pytest.raises(UserError, match=said):
        load(tmp_path, NUMBERED, **options)


SAME = [
    PLAIN.replace(" ", "\t"),
    PLAIN.replace(" ", "   "),
    PLAIN.replace("\n", "\r\n"),
    PLAIN.replace("\n", "\r"),
    "\ufeff" + PLAIN,
    "\n \n" + PLAIN.replace("\n\n", "\n \t\n\n"),
    "-DOCSTART- -X- -X- O\n\n" + PLAIN,
    "# sent_id = 1\n# text = EU rejects it\n" + PLAIN,
    PLAIN.replace("\n\n", "\n\n# text = it\n")
    .replace(" ", "\t")
    .replace("#\ttext\t=\t", "# text = "),
]


@pytest.mark.parametrize("text", SAME)
def test_ways_to_write_the_same(tmp_path, text):
    assert said(load(tmp_path, text).train) == EXAMPLES


def test_a_hash_may_be_a_word(tmp_path):
    assert load(tmp_path, "the O\n# B-A\n\n# O\n").train[0].words == ("the", "#")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#\tO\nnews\tB-A\n", [("#", "news")]),
        ("# O\nnews B-A\n", [("#", "news")]),
        ("# B-A\n\nnews O\n", [("#",), ("news",)]),
        ("# sent_id = 1\n#\tO\nOslo\tB-LOC\n", [("#", "Oslo")]),
        ("# sent_id = 1\nOslo\tB-LOC\n", [("Oslo",)]),
        ("# English\n#\n\nOslo B-LOC\n", [("Oslo",)]),
        ("# sent_id = 1\nOslo NNP B-NP B-LOC\n", [("Oslo",)]),  # of as many columns, by spaces
    ],
)
def test_a_file_may_begin_with_a_hash(tmp_path, text, words):
    assert [e.words for e in load(tmp_path, text).train] == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#\nnews\n", [["#", "news"]]),
        ("# text\nnews\n\n#\n", [["news"], ["#"]]),
        ("#\tx\nnews\tx\n", [["#", "news"]]),
        ("# sent_id = 1\nOslo\tx\n", [["Oslo"]]),
    ],
)
def test_words_to_predict_on_may_begin_with_a_hash(tmp_path, text, words):
    rows = words_of_lines([text], tmp_path, "tokens", Dialect())
    assert [row["tokens"] for row in rows] == words


UNIVERSAL = """# sent_id = 1
1-2\tdon't\t_\tO
1\tdo\tAUX\tO
2\tn't\tPART\tO
3\tlike\tVERB\tO
3.1\tthe\tDET\tO
4\tOslo\tPROPN\tB-LOC

# sent_id = 2
0.1\tit\tPRON\tO
1\tgo\tVERB\tO
"""


def test_lines_of_conllu_that_are_no_words(tmp_path, caplog):
    caplog.set_level("INFO")
    expected = [("do", "n't", "like", "Oslo"), ("go",)]
    data = load(tmp_path, UNIVERSAL, "{}.conllu", tokens_column=1, tags_column=-1)
    assert [e.words for e in data.train] == expected
    assert data.train[0].tags == ("O", "O", "O", "B-LOC")
    assert "train.conllu: 3 lines that are no words are left out" in caplog.text
    rows = list(words_of_lines([UNIVERSAL], tmp_path, "1", Dialect()))
    assert [tuple(row["1"]) for row in rows] == expected
    assert rows[0].number == 3


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("1-2 B-A\n1 O\n2 O\n", 0, ("1-2", "1", "2")),  # the first column is the words'
        ("0-2 New x B-A\n3 a x O\n4-5 of x O\n", 1, ("New", "a", "of")),  # places of characters
        ("1-2 one O\n1-2 two B-A\n", 1, ("one", "two")),  # a document
        ("1 one O\n1.5 two B-A\n7 three O\n", 1, ("one", "two", "three")),  # times
    ],
)
def test_numbers_that_do_not_count_leave_nothing_out(tmp_path, text, column, words):
    data = load(tmp_path, text, tokens_column=column, tags_column=-1)
    assert data.train[0].words == words


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a x O\nb B-A\n", "line 2 .*2 columns.*line 1 .*3"),
        ("a B-A\nb c O\n", "line 2 .*3 columns.*line 1 .*2"),
        ("a\tB-A\nb O\n", "line 2 .*tab"),
        ("a\tB-A\n\tO\n", "line 2 "),
        ("a\tB-A\nb\t\n", "line 2 "),
        ("a\tx\tB-A\nb\tO\n", "line 2 "),
        ("a B-A\n\n\nb Q\n", "line 4 .*'Q'"),
        ("a B-A\r\n\r\nb Q\r\n", "line 3 .*'Q'"),
        ("a B-A\nb\0 O\n", "line 2 .*NUL"),
    ],
)
def test_one_sentence(tmp_path, text, said):
    with pytest.raises(UserError, match=said):
        load(tmp_path, text)


def test_other_encodings_and_delimiters(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.conll").write_bytes("café B-A\nx O\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"line 1.*task\.encoding=latin-1"):
        Tagging(str(tmp_path)).load()
    assert Tagging(str(tmp_path), encoding="latin-1").load().train[0].words == ("café", "x")
    data = load(tmp_path, "New York,B-A\nis,O\n", delimiter="comma")
    assert data.train[0].words == ("New York", "is")


def test_names_of_files(tmp_path):
    assert said(load(tmp_path, PLAIN, name="{}.CONLL").train) == EXAMPLES


def test_an_empty_cell_of_the_one_column_is_a_row(tmp_path):
    """As pandas writes an empty text; a line without anything is none."""
    path = tmp_path / "one.csv"
    path.write_text('text\nhello\n""\n\n  \nworld\n')
    assert [row["text"] for row in read_rows([path])] == ["hello", "", "world"]
    path.write_text('id,text\n1,hello\n""\n2,world\n')
    assert [row["text"] for row in read_rows([path])] == ["hello", "world"]
