"""Read words and tags that stand a word a line (CoNLL): which columns they are, where words end."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bilevel.errors import UserError
from experiments.tasks.examples import Origin
from experiments.tasks.reading.dialect import Dialect
from experiments.tasks.reading.row import Row
from experiments.tasks.reading.text import lines_in, text_pieces

__all__ = ["DEFAULTS", "Sentence", "sentences_of_lines", "words_of_lines"]

log = logging.getLogger(__name__)

DEFAULTS = ("tokens", "ner_tags")  # of files with named columns; in lines: the first and the last
# Lines that begin so stand between documents (CoNLL-2003, JNLPBA).
SEPARATORS = ("-DOCSTART-", "###MEDLINE:")
LOOKED_AT = 100  # sentences, for whether the first column holds words
POSITION = re.compile(r"-?\d+")
# CoNLL-U counts 8-9 (two in one) and 8.1 (left out) too; 0-2 or 0:2 may be characters.
COUNTED = re.compile(r"\d+(?:[-.:]\d+)?")
EXTRA = re.compile(r"\d+(?:-\d+|\.\d+)")
TAG = re.compile(r"O|[BI]-.+")  # as iob.py takes them


class Sentence(NamedTuple):
    """Words and as many tags as they stand in the file.

    Attributes:
        place: says where the word of that number stands, for error messages.
        origin: where the sentence begins.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    place: Callable[[int], str]
    origin: Origin


class Line(NamedTuple):
    """A line that holds a word: its number from 1, and its columns."""

    number: int
    cells: list[str]


def sentences_of_lines(path: Path, columns: tuple[str, str], dialect: Dialect) -> list[Sentence]:
    """A word, perhaps more columns, and its tag a line; a blank line ends a sentence.

    Args:
        path: the file.
        columns: of words and tags: positions from 0, -1 for the last; the usual names stand for
            the first and the last.
        dialect: how the file is written; without a delimiter, tabs part its columns if its first
            line of words has one, else spaces do.

    Raises:
        UserError: the file cannot be read or has no words, a line has other columns than the first
            one, a position is not there, or the words are numbered and nobody says where they are.
    """
    groups = list(_groups(text_pieces(path, dialect, whole=True), path, dialect))
    if not groups:
        raise UserError(f"{path} has no words")
    width = len(groups[0][0].cells)
    places = [
        _position(column, option, usual, end, width, path)
        for column, option, usual, end in zip(
            columns, ("tokens_column", "tags_column"), DEFAULTS, (0, -1), strict=True
        )
    ]
    if places[0] == places[1]:
        raise UserError(
            f"task.tokens_column={columns[0]} and task.tags_column={columns[1]} are one column of "
            f"{path}"
        )
    if columns[0] == DEFAULTS[0]:
        _refuse_no_words(groups, path)
    if places[0] != 0:
        words = [_counted(group) for group in groups]
        left_out = sum(map(len, groups)) - sum(map(len, words))
        if left_out:
            log.info(
                "%s: %d lines that are no words are left out, whose numbers are like 8-9 (two "
                "words in one) or 8.1 (a word that is not in the text)",
                *(path, left_out),
            )
        groups = words
    return [_sentence(group, places, path) for group in groups]


def words_of_lines(
    pieces: Iterable[str], path: Path, column: str, dialect: Dialect
) -> Iterator[Row]:
    """The words of each sentence; tags need not be there.

    Args:
        pieces: of the file's text.
        path: for messages.
        column: the position of the words; a name stands for the first, and is the rows' own.
        dialect: how the file is written.

    Raises:
        UserError: as :func:`sentences_of_lines`.
    """
    groups = _groups(pieces, path, dialect, least=1)
    some = list(itertools.islice(groups, LOOKED_AT))
    if not POSITION.fullmatch(column):
        _refuse_no_words(some, path)
    for group in itertools.chain(some, groups):
        place = 0
        if POSITION.fullmatch(column):
            place = _position(column, "tokens_column", "", 0, len(group[0].cells), path)
        words = group if place == 0 else _counted(group)
        yield Row({column: [line.cells[place] for line in words]}, path, words[0].number)


def _groups(
    pieces: Iterable[str], path: Path, dialect: Dialect, least: int = 2
) -> Iterator[list[Line]]:
    """The lines of each sentence, of so many columns at the least."""
    group: list[Line] = []
    first: Line | None = None
    lines = enumerate((line.rstrip("\r\n") for line in lines_in(pieces)), start=1)
    head, between = _head(lines, dialect)
    for number, line in itertools.chain(head, lines):
        stripped = line.strip(" \t")
        if _apart(stripped):
            if group:
                yield group
            group = []
            continue
        found = Line(number, _cells(line, between))
        if first is not None and _comment(stripped) and len(found.cells) != len(first.cells):
            continue  # of CoNLL-U; a line of as many columns is the word "#"
        _check(found, first, stripped, path, least)
        first = first or found
        group.append(found)
    if group:
        yield group


def _head(lines: Iterator[tuple[int, str]], dialect: Dialect) -> tuple[list[tuple[int, str]], str]:
    """The lines up to the first that is a word for certain, and what parts their columns.

    Comments are left out of them. Of lines with spaces "# O" is a word and "# English" is none,
    however many columns there are: it is told by its tag.

    Args:
        lines: all, with their numbers; those of the head are taken.
        dialect: how the file is written.
    """
    found = []
    for number, line in lines:
        found.append((number, line))
        text = line.strip(" \t")
        if not _apart(text) and not _comment(text):
            break
    else:
        return [], " "
    between = dialect.character("\t") if dialect.delimiter is not None else None
    between = between or ("\t" if "\t" in text else " ")
    width = len(_cells(line, between))

    def is_hash(line: str) -> bool:
        cells = _cells(line, between)
        sure = width == 1 or between != " " or TAG.fullmatch(cells[-1]) is not None
        return len(cells) == width and cells[0] == "#" and sure

    kept = [(n, line) for n, line in found if not _comment(line.strip(" \t")) or is_hash(line)]
    return kept, between


def _apart(line: str) -> bool:
    """Whether a line ends a sentence."""
    return not line or line.startswith(SEPARATORS)


def _comment(line: str) -> bool:
    return line == "#" or line.startswith(("# ", "#\t"))


def _cells(line: str, between: str) -> list[str]:
    if between != " ":
        return [cell.strip(" ") for cell in line.rstrip(" \t").split(between)]
    # Not split(): it would part a word at a no-break space. Several spaces align columns.
    return [cell for cell in line.strip(" \t").split(" ") if cell]


def _check(line: Line, first: Line | None, text: str, path: Path, least: int) -> None:
    if len(line.cells) < least or not all((line.cells[0], line.cells[-1])):
        raise UserError(
            f"line {line.number} of {path} is {text!r}: it must hold a word and, in the last "
            "column, its tag, parted by a tab or spaces (or by task.delimiter) like those before"
        )
    if first is not None and len(line.cells) != len(first.cells):
        raise UserError(
            f"line {line.number} of {path} has {len(line.cells)} columns and line {first.number} "
            f"has {len(first.cells)}: every word must have as many"
        )


def _position(column: str, option: str, usual: str, end: int, width: int, path: Path) -> int:
    """The number of a column, from 0."""
    if column == usual:
        return end % width
    if not POSITION.fullmatch(column):
        raise UserError(
            f"task.{option}={column}: the columns of {path} have no names, so give a position, 0 "
            f"for the first and -1 for the last of {width}"
        )
    number = int(column)
    if not -width <= number < width:
        raise UserError(
            f"task.{option}={column}: {path} has {width} columns, 0 to {width - 1} (-1 is the last)"
        )
    return number % width


def _refuse_no_words(groups: Sequence[Sequence[Line]], path: Path) -> None:
    if _no_words(groups):
        raise UserError(
            f"the first column of {path} holds no words ({groups[0][0].cells[0]!r}, ...): it "
            "counts them, or names their sentence or document; say "
            "which column holds them and which their tags, counted from 0 with -1 for the last, "
            "as task.tokens_column=1 task.tags_column=-1"
        )


def _no_words(groups: Sequence[Sequence[Line]]) -> bool:
    """Tell whether the first column has numbers alone, or one text through each sentence."""
    if not groups or len(groups[0][0].cells) < 3 or sum(map(len, groups)) < 2:
        return False
    columns = [[line.cells[0] for line in group] for group in groups]
    if all(COUNTED.fullmatch(cell) for cells in columns for cell in cells):
        return True
    several = [cells for cells in columns if len(cells) > 1]
    return len(several) > 0 and all(len(set(cells)) == 1 for cells in several)


def _counted(group: list[Line]) -> list[Line]:
    """The words of a sentence whose first column counts them.

    CoNLL-U has other lines between them, whose numbers are ranges (8-9, two words in one) or broken
    (8.1, a word that is not in the text). Where the numbers do not count, or these do not fit them,
    they are something else (places of characters, times), and every line is a word.
    """
    words = [line for line in group if not EXTRA.fullmatch(line.cells[0])]
    numbers = [line.cells[0] for line in words]
    if len(words) == len(group) or not (numbers and numbers[0].isdecimal()):
        return group
    begin = int(numbers[0])
    known = [str(begin - 1 + i) for i in range(len(numbers) + 1)]  # 0.1 stands before 1
    others = [line.cells[0] for line in group if EXTRA.fullmatch(line.cells[0])]
    fit = all(set(other.partition(".")[0].split("-")) <= set(known) for other in others)
    return words if fit and numbers == known[1:] else group


def _sentence(group: Sequence[Line], places: Sequence[int], path: Path) -> Sentence:
    numbers = [line.number for line in group]
    words, tags = (tuple(line.cells[place] for line in group) for place in places)
    for line in group:
        if not all(line.cells[place] for place in places):
            raise UserError(f"line {line.number} of {path} lacks a word or a tag in its column")
    origin = Origin(str(path), numbers[0], "line")
    return Sentence(words, tags, lambda i: f"line {numbers[i]} of {path}", origin)
