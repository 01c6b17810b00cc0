"""Read csv and tsv, strictly: a row that does not fit the header is refused, not filled up."""

from __future__ import annotations

import csv
import itertools
import logging
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bilevel.errors import UserError
from experiments.tasks.reading.dialect import NAMES, Dialect, likely_delimiter
from experiments.tasks.reading.row import Row
from experiments.tasks.reading.text import lines_in

__all__ = ["delimited_rows"]

log = logging.getLogger(__name__)

FIRST_LINE = re.compile(r"sep=(.)\r?\n")  # by which spreadsheets say what the delimiter is
SPACED = re.compile(r'\s+"[^"]*"\s*')
QUOTED = re.compile(r'"(?:[^"]|"")*"')
QUOTED_NAME = re.compile(rf"[^\S\r\n]*{QUOTED.pattern}[^\S\r\n]*(?P<after>[;\t|,])")
MARK = "\ufeff"  # of the byte order; a file put behind another brings its own

Record = tuple[int, list[str]]  # its first line, and its cells


def delimited_rows(
    pieces: Iterable[str], path: Path, usual: str, dialect: Dialect, *, again: bool = False
) -> Iterator[Row]:
    """The rows below a header, one after the other; every cell is a string.

    Args:
        pieces: of the file's text.
        path: for messages.
        usual: the delimiter where the dialect has none. Cells may be quoted unless it is a tab: a
            quotation mark in a tsv file, like GLUE's own, is an ordinary character.
        dialect: what was asked for.
        again: what is odd in the cells has been said.

    Raises:
        UserError: the header is none or is repeated, a row has another number of cells than it, a
            quotation mark is not closed, or another delimiter or quoting is likely.
    """
    pieces = iter(pieces)
    first = next(pieces, "")
    said = FIRST_LINE.match(first) if dialect.delimiter is None else None
    delimiter = said[1] if said else dialect.character(usual)
    quoting = dialect.quoting
    if quoting is None:
        quoting = (usual, delimiter) != ("\t", "\t")
    if dialect.delimiter is None and not said:
        _refuse_delimiter_of_quoted(first, path, usual, dialect)
    lines = lines_in(itertools.chain([first], pieces))
    records = _records(lines, path, delimiter, quoting, dialect)
    if said:
        next(records)
    top, header = next(records, (1, []))
    if dialect.delimiter is None and not said and len(header) == 1:
        _refuse_other_delimiter(header[0], path, usual, dialect)
    names = _names(header, path)
    remarks = _Remarks(path, delimiter, quoting, dialect)
    remarks.see_marks(top, header)
    for start, cells in records:
        nothing = len(cells) == 1 and not cells[0].strip()
        if nothing and not (len(names) == 1 and cells == [""]):  # "" is a cell, of one column
            continue  # a blank line
        if len(cells) != len(names):
            raise UserError(_ragged(start, cells, names, path, delimiter, quoting, dialect))
        if [cells[0].removeprefix(MARK), *cells[1:]] == header:
            raise UserError(
                f"line {start} of {path} is the header once more, as where files were put behind "
                "one another: take it out"
            )
        remarks.see(start, cells)
        yield Row(zip(names, cells, strict=True), path, start)
    if not again:
        remarks.end()


def _records(
    lines: Iterable[str], path: Path, delimiter: str, quoting: bool, dialect: Dialect
) -> Iterator[Record]:
    """Each record and the line that it begins in; lines without anything are left out."""
    csv.field_size_limit(sys.maxsize)  # a text may be longer than the 131,072 of the module
    how: dict[str, Any] = {"quoting": csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE}
    reader = csv.reader(lines, delimiter=delimiter, strict=True, **how)
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(
                f"the row that begins in line {start} of {path} has a quotation mark that is not "
                f"closed, or that closes before its cell ends (seen in line {reader.line_num}): "
                'double each one inside a quoted cell (""), or set '
                f"{dialect.prefix}quoting=false where they enclose nothing"
            ) from error
        if cells:
            yield start, cells


def _refuse_other_delimiter(header: str, path: Path, usual: str, dialect: Dialect) -> None:
    other = likely_delimiter(header, usual)
    if other is not None:
        this = _name(usual)
        raise UserError(
            f"{path} has one column only, {header!r}, with a {this} as delimiter: set "
            f"{dialect.prefix}delimiter={other} if that parts its columns (or ={this} if this is "
            "one column)"
        )


def _refuse_delimiter_of_quoted(text: str, path: Path, usual: str, dialect: Dialect) -> None:
    """Say which delimiter stands behind a quoted first name, which the usual one cannot read."""
    found = QUOTED_NAME.match(text)
    if found is not None and usual == "," != found["after"]:
        raise UserError(
            f"{path} begins with {found[0]!r}, and a {_name(usual)} is the usual delimiter: set "
            f"{dialect.prefix}delimiter={_name(found['after'])} if that parts its columns"
        )


def _name(delimiter: str) -> str:
    return next((name for name, found in NAMES.items() if found == delimiter), repr(delimiter))


def _names(header: list[str], path: Path) -> list[str]:
    """The columns' names; one without a name is called as pandas calls it."""
    names = [name if name.strip() else f"Unnamed: {i}" for i, name in enumerate(header)]
    for name, count in Counter(names).most_common(1):
        if count > 1:
            raise UserError(f"{path} has {count} columns with the name {name!r}")
    return names


def _ragged(
    start: int,
    cells: list[str],
    names: list[str],
    path: Path,
    delimiter: str,
    quoting: bool,
    dialect: Dialect,
) -> str:
    name = _name(delimiter)
    if not quoting:
        advice = f"write no {name} in a text, or quote it and set {dialect.prefix}quoting=true"
    elif len(cells) > len(names):
        advice = f"a text that holds a {name} must stand in quotation marks"
    else:
        advice = f"fill the row up, or set {dialect.prefix}delimiter if it is no {name}"
    return (
        f"line {start} of {path} has {len(cells)} fields and the header has {len(names)}: {advice}"
    )


class _Remarks:
    """What is odd in the cells of a file, gathered row by row and told at its end."""

    def __init__(self, path: Path, delimiter: str, quoting: bool, dialect: Dialect) -> None:
        self.path, self.delimiter, self.quoting, self.dialect = path, delimiter, quoting, dialect
        self.swallowed: int | None = None
        self.spaced: tuple[int, str] | None = None
        self.counts = {"swallowed": 0, "spaced": 0}
        # Of quotation marks that are read as text: the first, and whether they look like quoting.
        self.marked: tuple[int, str] | None = None
        self.whole, self.doubled, self.header = True, False, False

    def see_marks(self, start: int, header: list[str]) -> None:
        """Look at the header."""
        self.header = all(QUOTED.fullmatch(cell) for cell in header)
        self._see_cells(start, header)

    def see(self, start: int, cells: list[str]) -> None:
        """Look at a row."""
        self._see_cells(start, cells)
        if self.quoting:
            self._see_swallowed(start, cells)

    def _see_cells(self, start: int, cells: list[str]) -> None:
        for cell in cells:
            if '"' not in cell:
                continue
            if not self.quoting:
                self.marked = self.marked or (start, cell)
                self.whole = self.whole and QUOTED.fullmatch(cell) is not None
                self.doubled = self.doubled or '""' in cell[1:-1]
            elif SPACED.fullmatch(cell):
                self.spaced = self.spaced or (start, cell)
                self.counts["spaced"] += 1

    def _see_swallowed(self, start: int, cells: list[str]) -> None:
        """A quoted cell that holds lines which look like rows: a quotation mark too many."""
        if len(cells) < 2:
            return
        for cell in cells:
            lines = cell.splitlines() if "\n" in cell or "\r" in cell else ()
            # The first and the last are parts of lines; the others would be rows of their own.
            inner = [line for line in lines[1:-1] if line.strip()]
            if inner and all(line.count(self.delimiter) == len(cells) - 1 for line in inner):
                self.swallowed = self.swallowed or start
                self.counts["swallowed"] += 1

    def end(self) -> None:
        """Say what was found.

        Raises:
            UserError: a file that was written with quotation marks around cells is read as if they
                were text: they are around every name in the header, or each that occurs fits and
                one is doubled inside.
        """
        if self.swallowed is not None:
            log.warning(
                "line %d of %s begins a cell that runs over lines which look like rows (%d such): "
                "is a quotation mark missing there?",
                *(self.swallowed, self.path, self.counts["swallowed"]),
            )
        if self.spaced is not None:
            log.warning(
                "line %d of %s has the cell %r: behind a space, a quotation mark is part of the "
                "text (%d such cells)",
                *(self.spaced[0], self.path, self.spaced[1][:60], self.counts["spaced"]),
            )
        if self.dialect.quoting is not None or self.marked is None:
            return
        if self.header or (self.whole and self.doubled):
            start, cell = self.marked
            prefix = self.dialect.prefix
            raise UserError(
                f"line {start} of {self.path} has the cell {cell[:60]}, and quotation marks are "
                f"part of the text in this kind of file: set {prefix}quoting=true where they "
                f"enclose cells, {prefix}quoting=false to keep them"
            )
