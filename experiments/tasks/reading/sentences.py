"""Read files of tagged words: rows with lists (parquet, jsonl), or a word a line (CoNLL ...)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

from bilevel.errors import UserError
from experiments.tasks.reading.files import read_rows
from experiments.tasks.reading.rows import check_columns

__all__ = ["SUFFIXES", "Sentence", "read_sentences"]

LINES = (".conll", ".iob", ".iob2", ".txt", ".tsv")
SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", *LINES)

# Lines that begin so stand between documents (CoNLL-2003, JNLPBA).
SEPARATORS = ("-DOCSTART-", "###MEDLINE:")


class Sentence(NamedTuple):
    """Words and as many tags as they stand in the file.

    Attributes:
        place: says where the word of that number stands, for error messages.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    place: Callable[[int], str]


def read_sentences(path: Path, columns: tuple[str, str], names: Sequence[str]) -> list[Sentence]:
    """Read a file of `SUFFIXES`.

    Args:
        path: the file.
        columns: of words and tags, for rows.
        names: of the tags, for rows with numbers.

    Raises:
        UserError: the file cannot be read, it has no words, words and tags do not fit, or a
            number has no name.
    """
    if path.suffix in LINES:
        return _from_lines(path)
    rows = read_rows(path)
    check_columns(rows, columns, str(path))
    return [_from_row(row, columns, names, f"row {i} of {path}") for i, row in enumerate(rows)]


def _from_lines(path: Path) -> list[Sentence]:
    """A word, perhaps more columns, and its tag a line; a blank line ends a sentence."""
    sentences: list[Sentence] = []
    pairs: list[tuple[str, str]] = []
    number = 0

    def end() -> None:
        if pairs:
            start = number - len(pairs)
            words, tags = zip(*pairs, strict=True)
            sentences.append(Sentence(words, tags, lambda i: f"line {start + i} of {path}"))
            pairs.clear()

    try:
        # Not splitlines: a word may hold characters that it takes for an end of line.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text: {error}") from error
    for number, line in enumerate([*lines, ""], start=1):
        text = line.strip(" \t\r")
        if not text or text.startswith(SEPARATORS):
            end()
            continue
        # Not split(): it would part a word at a no-break space.
        parts = [part for part in text.split("\t" if "\t" in text else " ") if part]
        if len(parts) < 2:
            raise UserError(
                f"line {number} of {path} is {text!r}: it must hold a word and, in the last "
                "column, its tag, parted by a tab or spaces"
            )
        pairs.append((parts[0], parts[-1]))
    if not sentences:
        raise UserError(f"{path} has no words")
    return sentences


def _from_row(
    row: dict[str, Any], columns: tuple[str, str], names: Sequence[str], where: str
) -> Sentence:
    words, tags = (_list(row.get(column), column, where) for column in columns)
    if len(words) != len(tags) or not words:
        raise UserError(
            f"{where} has {len(words)} words in column {columns[0]!r} and {len(tags)} tags in "
            f"column {columns[1]!r}: there must be one tag a word, and a word at least"
        )

    def place(number: int) -> str:
        return f"word {number} of {where}"

    for number, word in enumerate(words):
        if not isinstance(word, str) or not word:
            raise UserError(f"{place(number)} is {word!r}: a word must be a text that is not empty")
    return Sentence(
        tuple(words), tuple(_name(tag, names, place(i)) for i, tag in enumerate(tags)), place
    )


def _list(value: Any, column: str, where: str) -> list[Any]:
    if hasattr(value, "tolist"):
        value = value.tolist()  # parquet gives arrays
    if not isinstance(value, list | tuple):
        raise UserError(f"{where} has no list in column {column!r} but {value!r}")
    return list(value)


def _name(tag: Any, names: Sequence[str], place: str) -> str:
    if isinstance(tag, str):
        return tag
    if not isinstance(tag, Integral):
        raise UserError(f"{place} has the tag {tag!r}: this must be a text or a whole number")
    if not names:
        raise UserError(
            f"{place} has the tag {tag}: name the tags in the order of their numbers, "
            "task.tag_names=[O,B-TYPE,I-TYPE,...]"
        )
    if not 0 <= int(tag) < len(names):
        raise UserError(
            f"{place} has the tag {tag}: task.tag_names has names for 0 to {len(names) - 1}"
        )
    return names[int(tag)]
