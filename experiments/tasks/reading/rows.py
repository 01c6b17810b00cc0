"""Turn rows into examples: which columns are the texts, which the label."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bilevel.errors import UserError
from experiments.tasks.examples import Example
from experiments.tasks.reading.cells import text_of
from experiments.tasks.reading.files import is_missing
from experiments.tasks.reading.labels import warn_of_spaces
from experiments.tasks.reading.row import check_columns, place_of

__all__ = ["examples"]


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
        result.append(Example(texts, label))
    warn_of_spaces(rows, label_column, where)
    return result
