"""Read several labels a text out of a column of 0 and 1 for each label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bilevel.errors import UserError
from experiments.tasks.reading.file_rows import changed
from experiments.tasks.reading.files import is_missing
from experiments.tasks.reading.labels import as_number
from experiments.tasks.reading.row import Row, check_columns, columns_of, place_of

__all__ = ["MARKED", "put_labels"]

MARKED = "task.label_columns"  # of what is put into a row; no file has such a column
SPELLED = {"true": 1, "false": 0}
HIDDEN = -1  # of a text whose labels are not told


def put_labels(rows: Sequence[Row], columns: Sequence[str], where: str) -> Sequence[Row]:
    """The rows, each with the list of the columns that mark it as `MARKED`; None of hidden ones.

    Rows of a split without any of the columns stay as they are.

    Args:
        rows: of a split.
        columns: of the marks, which are the labels' names.
        where: the file, for messages.

    Raises:
        UserError: some of the columns are missing, or a cell is neither 0 nor 1.
    """
    if not set(columns) & set(columns_of(rows)):
        return rows
    check_columns(rows, columns, where)

    def put(row: Row, number: int) -> None:
        marks = {column: _mark(row.get(column)) for column in columns}
        if set(marks.values()) <= {None, HIDDEN}:
            row[MARKED] = None
            return
        for column, mark in marks.items():
            if mark not in (0, 1):
                shown = str(row.get(column))[:60]
                raise UserError(
                    f"{place_of(row, number, where)} has {shown!r} in column {column!r}: a column "
                    "of task.label_columns holds 1 where a text has the label and 0 where not"
                )
        row[MARKED] = [column for column, mark in marks.items() if mark]

    return changed(rows, put, MARKED)


def _mark(cell: Any) -> Any:
    """The number in a cell; None of an empty one, -2 of what is none."""
    if is_missing(cell):
        return None
    if isinstance(cell, str) and cell.strip().lower() in SPELLED:
        return SPELLED[cell.strip().lower()]
    number = as_number(cell)
    return -2 if number is None else number
