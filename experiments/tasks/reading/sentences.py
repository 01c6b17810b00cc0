"""Read files of tagged words: rows with lists (parquet, json), or a word a line (CoNLL ...)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

from bilevel.errors import UserError
from experiments.tasks.reading.cells import is_list, words_of
from experiments.tasks.reading.dialect import Dialect
from experiments.tasks.reading.files import read_rows
from experiments.tasks.reading.lines import Sentence, sentences_of_lines
from experiments.tasks.reading.row import check_columns, origin_of, place_of
from experiments.tasks.reading.source_names import SourceNames

__all__ = ["LINES", "ROWS", "SUFFIXES", "Sentence", "read_sentences", "sentence_of_row"]

LINES = (".conll", ".conllu", ".iob", ".iob2", ".bio", ".txt", ".tsv")
ROWS = (".parquet", ".json", ".jsonl")
SUFFIXES = (*ROWS, *LINES, *(f"{suffix}.gz" for suffix in (*ROWS[1:], *LINES)))


def read_sentences(
    paths: Sequence[Path],
    columns: tuple[str, str],
    names: Sequence[str],
    dialect: Dialect | None = None,
    sources: SourceNames | None = None,
) -> Iterator[Sentence]:
    """The sentences of files of `SUFFIXES`, one after the other.

    Args:
        paths: the files, which follow one another.
        columns: of words and tags: names in rows, positions in lines.
        names: of the tags, for rows with numbers.
        dialect: how text files are written.
        sources: where the names of the sentences' sources are; None: they have none.

    Raises:
        UserError: a file cannot be read, it has no words, words and tags do not fit, or a number
            has no name.
    """
    dialect = dialect or Dialect()
    sources = sources or SourceNames()
    for path in paths:
        if path.name.lower().removesuffix(".gz").endswith(LINES):
            source = sources.of_lines(path)
            for sentence in sentences_of_lines(path, columns, dialect):
                yield sentence._replace(origin=sentence.origin._replace(source=source))
            continue
        rows = read_rows(path, dialect)
        where = str(path)
        rows = sources.put_on(rows, where)
        check_columns(rows, columns, where)
        for i, row in enumerate(rows):
            yield sentence_of_row(row, i, columns, names, where)


def sentence_of_row(
    row: dict[str, Any], number: int, columns: tuple[str, str], names: Sequence[str], file: str
) -> Sentence:
    """The sentence of a row with lists of words and tags.

    Args:
        row: it has the columns.
        number: of the row.
        columns: of words and tags.
        names: of the tags, for rows with numbers.
        file: for messages.

    Raises:
        UserError: words and tags do not fit, or a number has no name.
    """
    where, origin = place_of(row, number, file), origin_of(row, number, file)
    words, tags = (_list(row.get(column), column, where) for column in columns)
    if len(words) != len(tags) or not words:
        raise UserError(
            f"{where} has {len(words)} words in column {columns[0]!r} and {len(tags)} tags in "
            f"column {columns[1]!r}: there must be one tag a word, and a word at least"
        )

    def place(number: int) -> str:
        return f"word {number} of {where}"

    return Sentence(
        words_of(words, where),
        tuple(_name(tag, names, place(i)) for i, tag in enumerate(tags)),
        place,
        origin,
    )


def _list(value: Any, column: str, where: str) -> list[Any]:
    if not is_list(value):
        raise UserError(f"{where} has no list in column {column!r} but {value!r}")
    return list(value)


def _name(tag: Any, names: Sequence[str], place: str) -> str:
    if isinstance(tag, str):
        if names and tag.strip() not in names:
            raise UserError(f"{place} has the tag {tag!r}: it is none of task.tag_names")
        return tag.strip()
    if isinstance(tag, bool) or not isinstance(tag, Integral):
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
