"""Hold a row of a data file, which knows where it stands in the file."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from bilevel.errors import UserError, listed
from experiments.tasks.examples import Origin
from experiments.tasks.reading.dialect import likely_delimiter

__all__ = [
    "KnowsColumns",
    "MissingColumnError",
    "Row",
    "check_columns",
    "columns_of",
    "origin_of",
    "place_of",
]

SHOWN = 50  # names in a message
LONGEST = 100  # characters of one


class Row(dict[str, Any]):
    """Column name -> value.

    Attributes:
        path: the file.
        number: of its first line as an editor shows it, from 1; or of the row, from 0.
        unit: "line", or "row" where a file has no lines.
        source: what the user calls the part of the data that it is from; None without a name.
    """

    __slots__ = ("number", "path", "source", "unit")

    def __init__(
        self,
        values: Mapping[str, Any] | Iterable[tuple[str, Any]],
        path: Path,
        number: int,
        unit: str = "line",
    ) -> None:
        super().__init__(values)
        self.path = path
        self.number = number
        self.unit = unit
        self.source: str | None = None

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        counted = " (from 0)" if self.unit == "row" else ""
        return f"{self.unit} {self.number}{counted} of {self.path}"


def place_of(row: Mapping[str, Any], number: int, where: str) -> str:
    """Where a row stands, for messages: its line; rows of the hub know only their number."""
    return row.place if isinstance(row, Row) else f"row {number} of {where}"


def origin_of(row: Mapping[str, Any], number: int, where: str) -> Origin:
    """The same as parts of an example: a file and a line, or the split and the row's number."""
    if isinstance(row, Row):
        return Origin(str(row.path), row.number, row.unit, source=row.source)
    return Origin(where, number)


@runtime_checkable
class KnowsColumns(Protocol):
    """Rows that need not be gone through to tell their columns.

    Attributes:
        columns: all names, in the order of their first.
    """

    columns: dict[str, None]


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, None]:
    """All names of columns in rows, in the order of their first."""
    if isinstance(rows, KnowsColumns):
        return rows.columns
    return dict.fromkeys(name for row in rows for name in row)


class MissingColumnError(UserError):
    """Rows have no column of this name.

    Attributes:
        column: the name.
    """

    def __init__(self, message: str, column: str) -> None:
        super().__init__(message, column)
        self.column = column

    def __str__(self) -> str:
        return str(self.args[0])


def check_columns(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], where: str) -> None:
    """Raise MissingColumnError, naming the columns there are, when no row has one of `columns`."""
    known = columns_of(rows)
    for column in columns:
        if column not in known:
            raise MissingColumnError(
                f"{where} has no column {column!r}: its columns are "
                f"{listed(_shortened(known))}{_hint(rows, known)}",
                column,
            )


def _shortened(names: Collection[str]) -> Iterator[str]:
    """For a message: a file without a header has a text as its names, or thousands of them."""
    for name in itertools.islice(names, SHOWN):
        yield repr(name if len(name) <= LONGEST else f"{name[:LONGEST]}...")
    if len(names) > SHOWN:
        yield f"and {len(names) - SHOWN} more"


def _hint(rows: Sequence[Mapping[str, Any]], names: Iterable[str]) -> str:
    """What the names of a file with a header say: a delimiter inside one is one not known of."""
    first = rows[0]
    if not isinstance(first, Row) or ".csv" not in first.path.name.lower():
        return ""
    other = next(filter(None, (likely_delimiter(name, ",") for name in names)), None)
    return f" (task.delimiter={other}, if that is what parts them)" if other else ""
