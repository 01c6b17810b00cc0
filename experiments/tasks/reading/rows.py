"""Turn rows into examples: which columns are the texts, which the label."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from bilevel.errors import UserError
from experiments.stored_data.spool import from_rows
from experiments.tasks.examples import Example
from experiments.tasks.reading.cells import columns_told, looks_printed, text_in
from experiments.tasks.reading.files import is_missing
from experiments.tasks.reading.labels import warn_of_spaces
from experiments.tasks.reading.row import check_columns, origin_of, place_of

__all__ = ["examples", "say_odd_texts"]

log = logging.getLogger(__name__)


def examples(
    rows: Sequence[dict[str, Any]],
    text_columns: Sequence[str],
    label_column: str,
    convert: Callable[[Any], int | float],
    where: str,
    true_column: str | None = None,
) -> Sequence[Example]:
    """Return the examples of a split.

    Args:
        rows: at least one.
        text_columns: one or two column names.
        label_column: the label's column name.
        convert: from a label's cell to a class number or a target.
        where: the file or split, for error messages.
        true_column: of the right labels, empty where they are not known; None without one.

    Raises:
        UserError: a column is missing, a text or label is absent or no text, or a label means
            nothing.
    """
    if not rows:
        raise UserError(f"{where} has no rows")
    check_columns(rows, [*text_columns, label_column], where)

    def made(number: int, row: dict[str, Any]) -> list[Example]:
        place = place_of(row, number, where)
        texts = tuple(text_in(row, column, place) for column in text_columns)
        if label_column not in row:
            raise UserError(f"{place} is unlabelled, without {label_column!r}: {columns_told(row)}")
        if is_missing(row[label_column]):
            raise UserError(f"{place} is unlabelled: column {label_column!r} is empty there")
        try:
            label = convert(row[label_column])
        except UserError as error:
            raise UserError(f"{place}, column {label_column!r}: {error}") from error
        origin = origin_of(row, number, where)
        if true_column is not None and not is_missing(row.get(true_column)):
            try:
                origin = origin._replace(truth=convert(row[true_column]))
            except UserError as error:
                raise UserError(f"{place}, column {true_column!r}: {error}") from error
        return [Example(texts, label, origin)]

    result = from_rows(rows, made, where)
    warn_of_spaces(rows, label_column, where)
    say_odd_texts(rows, text_columns, where)
    return result


def say_odd_texts(rows: Sequence[dict[str, Any]], columns: Sequence[str], where: str) -> None:
    """Say so where texts are empty, or are lists that were printed into their cells."""
    for column in columns:
        empty, printed = 0, 0
        first_empty, first_printed = "", ("", "")
        for number, row in enumerate(rows):
            text = row.get(column)
            if is_missing(text):
                first_empty = first_empty or place_of(row, number, where)
                empty += 1
            elif looks_printed(text):
                if not printed:
                    first_printed = (place_of(row, number, where), str(text)[:40])
                printed += 1
        if empty:
            log.warning(
                "%s has an empty text in column %r (%d of %d rows): nothing can be told from it",
                *(first_empty, column, empty, len(rows)),
            )
        if printed:
            log.warning(
                "%s has %r in column %r (%d such rows): a printed list, which is read as the text "
                "that it is; jsonl and parquet files hold lists",
                *(*first_printed, column, printed),
            )
