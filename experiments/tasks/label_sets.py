"""Read rows with several labels each: a list in a cell, or a text with a separator."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from bilevel.errors import UserError
from experiments.stored_data.spool import from_rows
from experiments.tasks.examples import LabelSetExample
from experiments.tasks.reading.cells import kind_of, looks_printed, text_in
from experiments.tasks.reading.files import is_missing
from experiments.tasks.reading.labels import Classes, as_number, as_written, refuse_one_label
from experiments.tasks.reading.row import check_columns, origin_of, place_of
from experiments.tasks.reading.rows import say_odd_texts

__all__ = ["label_classes", "label_sets"]

log = logging.getLogger(__name__)


def label_classes(
    rows: Sequence[dict[str, Any]], column: str, separator: str | None, where: str
) -> Classes:
    """The labels that occur in training rows.

    Args:
        rows: at least one.
        column: of the labels.
        separator: between the labels of a text; None where cells are lists.
        where: the file, for messages.

    Raises:
        UserError: the column is missing, a cell is no set of labels, or there are none at all.
    """
    check_columns(rows, [column], where)
    cells = [
        _labels(row.get(column), column, separator, place_of(row, i, where))
        for i, row in enumerate(rows)
    ]
    _refuse_marks(cells, column, where)
    if separator is not None and not any(
        separator in row[column] for row in rows if isinstance(row.get(column), str)
    ):
        log.warning(
            "%s: no cell of column %r has task.label_separator=%r, so each is one label",
            *(where, column, separator),
        )
    classes = Classes.of([label for cell in cells for label in cell])
    refuse_one_label(classes, column, where)
    return classes


def label_sets(
    rows: Sequence[dict[str, Any]],
    text_columns: Sequence[str],
    column: str,
    separator: str | None,
    classes: Classes,
    where: str,
) -> Sequence[LabelSetExample]:
    """The examples of a split; arguments as :func:`label_classes`'s.

    Raises:
        UserError: a column is missing, a text is none, or a label is none of the training data's.
    """
    check_columns(rows, [*text_columns, column], where)

    def made(i: int, row: dict[str, Any]) -> list[LabelSetExample]:
        place = place_of(row, i, where)
        texts = tuple(text_in(row, name, place) for name in text_columns)
        try:
            labels = {classes.number(x) for x in _labels(row.get(column), column, separator, place)}
        except UserError as error:
            if place in str(error):
                raise
            raise UserError(f"{place}, column {column!r}: {error}") from error
        return [LabelSetExample(texts, tuple(sorted(labels)), origin_of(row, i, where))]

    found = from_rows(rows, made, where)
    say_odd_texts(rows, text_columns, where)
    return found


def _labels(cell: Any, column: str, separator: str | None, place: str) -> list[Any]:
    """The labels in a cell; an empty list or text is a text with none."""
    cell = cell.tolist() if hasattr(cell, "tolist") else cell  # parquet's arrays
    if looks_printed(cell):
        raise UserError(
            f"{place} has {str(cell)[:60]!r} in column {column!r}: a list that was printed into a "
            "text; write it into a jsonl or parquet file, or the labels with task.label_separator"
        )
    if isinstance(cell, str) and separator is not None:
        return [part.strip() for part in cell.split(separator) if part.strip()]
    if isinstance(cell, list | tuple):
        for label in cell:
            _check(label, column, place)
        return list(cell)
    raise UserError(
        f"{place} has {kind_of(cell)} in column {column!r}, {str(cell)[:60]!r}: with "
        "task.multi_label=true this must be a list of labels, or a text with "
        "task.label_separator=';' or the like; for a column of 0 and 1 for each label name them, "
        "task.label_columns=[...]"
    )


def _check(label: Any, column: str, place: str) -> None:
    """Refuse what is no label, or an empty one."""
    if is_missing(label):
        raise UserError(f"{place}, column {column!r}: one of the labels is empty")
    try:
        as_written(label)
    except UserError as error:
        raise UserError(f"{place}, column {column!r}: {error}") from error


def _refuse_marks(cells: Sequence[Sequence[Any]], column: str, where: str) -> None:
    """Refuse lists of a mark for each label, which as names are two labels, 0 and 1."""
    alike = {len(cell) for cell in cells}
    marks = {as_number(label) for cell in cells for label in cell} == {0, 1}
    if marks and len(alike) == 1 and alike != {1}:
        raise UserError(
            f"{where} has lists of {len(cells[0])} zeros and ones in column {column!r}: give the "
            "names of a text's labels, not a mark for each label (columns of marks are "
            "task.label_columns=[...])"
        )
