"""Turn rows into examples: which columns are the texts, which the label, what labels mean."""

import math
import re
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

from bilevel.errors import UserError
from experiments.tasks.examples import Example
from experiments.tasks.reading.files import Row, is_absent, is_missing

__all__ = ["class_numbers", "examples", "is_labelled", "label_key", "regression_target"]


def label_key(value: Any) -> int | str:
    """Return what identifies a class: 1, 1.0, True, "1" and " 1 " are one class, "good" another."""
    if isinstance(value, str):
        text = value.strip()
        return int(float(text)) if re.fullmatch(r"-?\d{1,15}(\.0*)?", text) else text
    if isinstance(value, Real) and float(value).is_integer():
        return int(float(value))
    return str(value)


def is_labelled(rows: list[Row], label_column: str) -> bool:
    """Tell whether a split has labels at all (GLUE's hidden ones are -1)."""
    return any(
        not is_missing(row.get(label_column)) and label_key(row[label_column]) != -1 for row in rows
    )


def class_numbers(rows: list[Row], label_column: str, where: str) -> dict[int | str, int]:
    """Number the labels that occur: numerically when all are numbers, else by name.

    Raises:
        UserError: the column is missing, or there are fewer than two labels.
    """
    check_columns(rows, [label_column], where)
    keys = {label_key(row[label_column]) for row in rows if not is_missing(row.get(label_column))}
    numeric = all(isinstance(key, int) for key in keys)
    ordered = sorted(keys) if numeric else sorted(keys, key=str)
    if len(ordered) < 2:
        raise UserError(
            f"{where} needs at least two different labels in column {label_column!r}, "
            f"it has {ordered}"
        )
    return {key: number for number, key in enumerate(ordered)}


def check_columns(rows: list[Row], columns: Sequence[str], where: str) -> None:
    """Raise UserError, naming the columns there are, when one of `columns` is missing."""
    for column in columns:
        if column not in rows[0]:
            raise UserError(
                f"{where} has no column {column!r}: its columns are {', '.join(rows[0])}"
            )


def class_number(classes: dict[int | str, int]) -> Callable[[Any], int]:
    """Return the function from a label's cell to its class number."""

    def convert(value: Any) -> int:
        key = label_key(value)
        if key not in classes:
            known = ", ".join(map(str, list(classes)[:20]))
            raise UserError(f"label {value!r} is unknown (the training labels are {known})")
        return classes[key]

    return convert


def regression_target(value: Any) -> float:
    """Return the number in a label's cell."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"label {value!r} is no finite number, as a regression target must be")
    return number


def examples(
    rows: list[Row],
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
        UserError: a column is missing, a text or label is absent, or a label means nothing.
    """
    if not rows:
        raise UserError(f"{where} has no rows")
    check_columns(rows, [*text_columns, label_column], where)
    result = []
    for number, row in enumerate(rows):
        place = f"row {number} of {where}"
        for column in text_columns:
            if is_absent(row.get(column)):
                raise UserError(f"{place} has no text in column {column!r}")
        if is_missing(row.get(label_column)):
            raise UserError(f"{place} is unlabelled: column {label_column!r} is empty there")
        try:
            label = convert(row[label_column])
        except UserError as error:
            raise UserError(f"{place}: {error}") from error
        result.append(Example(tuple(str(row[column]) for column in text_columns), label))
    return result
