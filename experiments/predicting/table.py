"""Read the table that is predicted on row by row, and look through it before a model loads."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Number
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bilevel.errors import UserError, listed
from experiments.tasks.inputs import Inputs
from experiments.tasks.reading.files import each_row
from experiments.tasks.reading.lines import words_of_lines
from experiments.tasks.reading.records import parquet_schema
from experiments.tasks.reading.row import Row, check_columns
from experiments.tasks.reading.rows import say_odd_texts
from experiments.tasks.reading.text import lines_in, text_pieces

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Kind", "Survey", "Table", "kind_of_file", "windows"]

Kind = Literal["csv", "tsv", "json", "jsonl", "parquet", "text", "conll"]

ENDINGS: dict[str, Kind] = {
    **{"csv": "csv", "tsv": "tsv", "json": "json", "jsonl": "jsonl", "parquet": "parquet"},
    "txt": "text",
}
OF_WORDS: dict[str, Kind] = dict.fromkeys(("conll", "conllu", "iob", "iob2", "bio", "tsv"), "conll")


def kind_of_file(path: Path, words: bool) -> Kind:
    """What a file is by its name.

    Args:
        path: the file; ``.gz`` behind a text file's ending is unpacked.
        words: whether words are read: then there are files of a word a line.

    Raises:
        UserError: it has another ending.
    """
    known = {**ENDINGS, **(OF_WORDS if words else {})}
    name = path.name.lower()
    ending = name.removesuffix(".gz").rpartition(".")[2]
    if ending not in known or (ending == "parquet" and name.endswith(".gz")):
        raise UserError(
            f"data={path}: its name must end in one of {listed(f'.{e}' for e in known)} (those of "
            "text also .gz), or say format=csv and the like"
        )
    return known[ending]


@dataclass(frozen=True)
class Survey:
    """What a table holds.

    Attributes:
        rows: how many.
        columns: names, in the order in which they come.
        digest: of the file's bytes.
        empty: how many rows have nothing to read.
    """

    rows: int
    columns: tuple[str, ...]
    digest: str
    empty: int


@dataclass(frozen=True)
class Table:
    """A file of rows to predict on.

    Attributes:
        path: the file.
        kind: what it is.
        inputs: how a row is read.
        name: what messages call it.
    """

    path: Path
    kind: Kind
    inputs: Inputs
    name: Path

    def rows(self) -> Iterator[Row]:
        """The rows, one after the other.

        Raises:
            UserError: the file cannot be read.
        """
        dialect = self.inputs.dialect
        if self.kind == "text":
            self.inputs.row("")  # one column alone is needed
            return self._texts()
        if self.kind == "conll":
            pieces = text_pieces(self.path, dialect, name=self.name)
            return words_of_lines(pieces, self.name, self.inputs.columns[0], dialect)
        return each_row(self.path, dialect, kind=self.kind, name=self.name)

    def schema(self, keep: Sequence[str] | None) -> pyarrow.Schema | None:
        """The types of a Parquet file's columns; None of another file.

        Args:
            keep: names of the columns; None for all.

        Raises:
            UserError: it is no Parquet file.
        """
        if self.kind != "parquet":
            return None
        import pyarrow

        found = parquet_schema(self.path, self.name)
        return pyarrow.schema([field for field in found if keep is None or field.name in keep])

    def _texts(self) -> Iterator[Row]:
        lines = lines_in(text_pieces(self.path, self.inputs.dialect, name=self.name))
        for number, line in enumerate(lines, start=1):
            yield Row(self.inputs.row(line.rstrip("\r\n")), self.name, number)

    def survey(self, window: int, skip_empty: bool, look: Callable[[list[Row]], None]) -> Survey:
        """Read all of it and check every row.

        Args:
            window: rows that are held at once.
            skip_empty: rows with nothing to read are no mistake.
            look: is shown the rows, window by window.

        Raises:
            UserError: there are no rows, a column is missing, a cell holds something else than the
                task reads, or nothing at all.
        """
        columns: dict[str, None] = {}
        count, empty, numbers = 0, 0, dict.fromkeys(self.inputs.columns, 0)
        for rows in windows(self.rows(), window):
            if not count:
                check_columns(rows, self.inputs.columns, str(self.name))
            filled = []
            for row in rows:
                columns.update(dict.fromkeys(row))
                missing = self.inputs.is_empty(row)
                if missing is None:
                    self.inputs.example(row, row.place)
                    filled.append(row)
                elif not skip_empty:
                    raise UserError(self._nothing(row, missing))
                empty += missing is not None
            if not self.inputs.words:
                say_odd_texts(filled, self.inputs.columns, str(self.name))
            for column in numbers:
                numbers[column] += sum(_is_number(row.get(column)) for row in filled)
            count += len(rows)
            look(rows)
        self._check(count, empty, numbers)
        with self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Survey(count, tuple(columns), digest, empty)

    def _nothing(self, row: Row, column: str) -> str:
        of_words = self.inputs.words and self.kind == "text"
        hint = " (a file of a word a line: format=conll)" if of_words else ""
        return (
            f"{row.place} has nothing in column {column!r}, and nothing can be told from that: "
            f"fill it, or say empty=skip for rows without an answer{hint}"
        )

    def _check(self, count: int, empty: int, numbers: dict[str, int]) -> None:
        if not count:
            raise UserError(f"{self.name} has no rows to predict on")
        if empty == count:
            raise UserError(f"{self.name} has nothing to read in any of its {count} rows")
        for column, found in numbers.items():
            if found == count - empty:
                raise UserError(
                    f"{self.name} has numbers alone in column {column!r}, where texts must be: "
                    "name another column, or write them as texts"
                )


def windows(rows: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Lists of so many rows; the last may be shorter."""
    while found := list(itertools.islice(rows, size)):
        yield found


def _is_number(value: Any) -> bool:
    return isinstance(value, Number)
