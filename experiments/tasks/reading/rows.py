"""Turn rows into examples: which columns are the texts, which the label."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from bilevel.errors import UserError
from experiments.tasks.examples import Example
from experiments.tasks.reading.cells import looks_printed, text_of
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
) -> list[Example]:
    """Return the examples of a split.

    Args:
        rows: at least one.
        text_columns: one or two column names.
        label_column: the label's column name.
        convert: from a label's cell to a class number or a target.
        where: the file or split, for error messages.

    Raises:
        UserError: a column is missing, a text or label is absent or no text, or a label means
            nothing.
    """
    if not rows:
        raise UserError(f"{where} has no rows")
    check_columns(rows, [*text_columns, label_column], where)
    result = []
    for number, row in enumerate(rows):
        place = place_of(row, number, where)
        texts = tuple(text_of(row.get(column), column, place) for column in text_columns)
        if is_missing(row.get(label_column)):
            raise UserError(f"{place} is unlabelled: column {label_column!r} is empty there")
        try:
            label = convert(row[label_column])
        except UserError as error:
            raise UserError(f"{place}, column {label_column!r}: {error}") from error
        result.append(Example(texts, label, origin_of(row, number, where)))
    warn_of_spaces(rows, label_column, where)
    say_odd_texts(rows, text_columns, where)
    return result


def say_odd_texts(rows: Sequence[dict[str, Any]], columns: Sequence[str], where: str) -> None:
    """Say so where texts are empty, or are lists that were printed into their cells."""
    for column in columns:
        places = [(place_of(row, i, where), row.get(column)) for i, row in enumerate(rows)]
        empty = [place for place, text in places if is_missing(text)]
        if empty:
            log.warning(
                "%s has an empty text in column %r (%d of %d rows): nothing can be told from it",
                *(empty[0], column, len(empty), len(rows)),
            )
        printed = [(place, text) for place, text in places if looks_printed(text)]
        if printed:
            log.warning(
                "%s has %r in column %r (%d such rows): a printed list, which is read as the text "
                "that it is; jsonl and parquet files hold lists",
                *(printed[0][0], str(printed[0][1])[:40], column, len(printed)),
            )
