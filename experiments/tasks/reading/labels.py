"""Read labels: which classes there are, and which of them a cell names.

Labels are compared as they are written. Only where every label of the training data is a number in
its usual form are they numbers, exact at any size: then 1, 1.0 and "1" are one class. 007 is no
such form, nor is 1.10, since they may be codes: as numbers they would be one with 7 and 1.1.
Where there are two classes, JSON's true, a csv file's True and 1 mean the same.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from numbers import Integral, Number, Real
from typing import Any

from bilevel.errors import UserError, listed
from experiments.tasks.reading.cells import is_list, kind_of
from experiments.tasks.reading.files import is_missing
from experiments.tasks.reading.row import check_columns, place_of
from experiments.tasks.reading.spelling import look_alike

__all__ = [
    "BOOLEANS",
    "Classes",
    "Key",
    "as_number",
    "as_written",
    "class_numbers",
    "is_bool",
    "is_labelled",
    "refuse_one_label",
    "regression_target",
    "warn_of_spaces",
]

log = logging.getLogger(__name__)

Key = int | Decimal | str

WHOLE = re.compile(r"(?:0|-?[1-9][0-9]*)(?:\.0*)?")
BROKEN = re.compile(r"-?(?:0|[1-9][0-9]*)\.[0-9]*[1-9]")
BOOLEANS = ("false", "true")
SPELLED = {"0": "false", "1": "true"}
LONGEST = 4000  # digits that Python reads as an integer
EXACT = 28  # digits that decimals are rounded to
SHOWN = 20  # labels in a message


def as_number(value: Any) -> int | Decimal | None:
    """A label as the number that it is; None for what is no number in its usual form."""
    if isinstance(value, str):
        text = value.strip()
        if len(text) > LONGEST:
            return None
        if WHOLE.fullmatch(text):
            return int(text.partition(".")[0])
        return Decimal(text) if BROKEN.fullmatch(text) else None
    if isinstance(value, Integral) or is_bool(value):
        return int(value)
    if isinstance(value, Real | Decimal) and math.isfinite(value):
        whole = int(value)  # type: ignore[arg-type]
        return whole if whole == value else _shortest(Decimal(str(value)))
    return None


def as_written(value: Any) -> str:
    """A label as text, without white space around it; true and false as JSON has them.

    Raises:
        UserError: it is an object, a list, bytes or the like, or a number that is not finite.
    """
    if isinstance(value, str):
        return value.strip()
    if is_bool(value):
        return "true" if value else "false"
    if isinstance(value, Number) and not isinstance(value, complex):
        if as_number(value) is None:
            raise UserError(f"the label {value} is not finite")
        return str(value)
    several = " (several labels a text: task=classification task.multi_label=true)"
    raise UserError(
        f"the label is {kind_of(value)}, {str(value)[:60]!r}: it must be a text or a number"
        + (several if is_list(value) else "")
    )


def _shortest(number: Decimal) -> Decimal:
    """1.1 for 1.10; more digits than `normalize` is exact for stay as they are."""
    return number.normalize() if len(number.as_tuple().digits) <= EXACT else number


def is_bool(value: Any) -> bool:
    """Tell whether a cell is true or false, and no text that says so."""
    return type(value).__name__ in ("bool", "bool_")  # numpy's are no bool


@dataclass(frozen=True)
class Classes:
    """The classes of training data, in the order of their numbers.

    Attributes:
        keys: what identifies each.
        numeric: they are numbers; else texts.
    """

    keys: tuple[Key, ...]
    numeric: bool

    @classmethod
    def of(cls, labels: Iterable[Any]) -> Classes:
        """Those that occur: in numerical order when all are numbers, else by name.

        Raises:
            UserError: one is no label.
        """
        values = list(labels)
        numbers = [None if is_bool(value) else as_number(value) for value in values]
        if all(number is not None for number in numbers):
            return cls(tuple(sorted({n for n in numbers if n is not None})), True)
        return cls(tuple(sorted({as_written(value) for value in values})), False)

    @property
    def names(self) -> list[str]:
        """As results and saved models have them."""
        return [str(key) for key in self.keys]

    def number(self, value: Any) -> int:
        """The class number that a label's cell means.

        Raises:
            UserError: it is none of the classes.
        """
        written = as_written(value)
        key: Key | None = written
        if self.numeric:
            key = as_number(value)
        elif written not in self._places:
            key = self._booleans.get(SPELLED.get(written, written.lower()))
        found = None if key is None else self._places.get(key)
        if found is None:
            alike = [n for n in self.names if look_alike(n) == look_alike(written)]
            hint = f": {alike[0]!a} is another label than {written!a}" if alike else ""
            more = f" and {len(self.keys) - SHOWN} more" if len(self.keys) > SHOWN else ""
            raise UserError(
                f"label {value!r} is unknown (the training labels are "
                f"{listed(self.names[:SHOWN])}{more}){hint}"
            )
        return found

    @cached_property
    def _places(self) -> dict[Key, int]:
        return {key: place for place, key in enumerate(self.keys)}

    @cached_property
    def _booleans(self) -> dict[str, Key]:
        """How these classes spell true and false, if they are that."""
        found = {str(key).lower(): key for key in self.keys}
        return found if len(self.keys) == 2 and tuple(sorted(found)) == BOOLEANS else {}


def class_numbers(rows: Sequence[dict[str, Any]], label_column: str, where: str) -> Classes:
    """The classes of training rows; those without a label are told of later, by `examples`.

    Raises:
        UserError: the column is missing, there are fewer than two labels, or one is no label.
    """
    check_columns(rows, [label_column], where)
    labels: dict[tuple[type, str], Any] = {}  # those that differ, by how they are written
    for row in rows:
        label = row.get(label_column)
        if not is_missing(label):
            labels.setdefault((type(label), repr(label)), label)
    try:
        classes = Classes.of(labels.values())
    except UserError:
        for number, row in enumerate(rows):  # which one it is
            if not is_missing(row.get(label_column)):
                _placed(row, label_column, place_of(row, number, where))
        raise
    refuse_one_label(classes, label_column, where)
    return classes


def refuse_one_label(classes: Classes, column: str, where: str) -> None:
    """Refuse labels that are all the same.

    Raises:
        UserError: says which one.
    """
    if len(classes.keys) < 2:
        raise UserError(
            f"{where} needs at least two different labels in column {column!r}, it has "
            f"{classes.names}"
        )


def _placed(row: dict[str, Any], column: str, place: str) -> None:
    try:
        as_written(row[column])
    except UserError as error:
        raise UserError(f"{place}, column {column!r}: {error}") from error


def is_labelled(rows: Sequence[dict[str, Any]], label_column: str) -> bool:
    """Tell whether a split has labels at all (GLUE's hidden ones are -1)."""
    return any(
        not is_missing(row.get(label_column)) and as_number(row[label_column]) != -1 for row in rows
    )


def regression_target(value: Any) -> float:
    """Return the number in a label's cell.

    Raises:
        UserError: it is no finite number.
    """
    number = math.nan
    # Python reads 1_000 too, which is no number to whoever wrote the file.
    odd = is_bool(value) or (isinstance(value, str) and "_" in value)
    if isinstance(value, str | Number) and not isinstance(value, complex) and not odd:
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            number = float(value)  # type: ignore[arg-type]
    if not math.isfinite(number):
        raise UserError(
            f"label {str(value)[:60]!r} is no finite number, as a regression target must be"
        )
    return number


def warn_of_spaces(rows: Sequence[dict[str, Any]], label_column: str, where: str) -> None:
    """Say so where labels have white space around them, which is no part of them."""
    first, count = ("", ""), 0
    for number, row in enumerate(rows):
        label = row[label_column]
        if isinstance(label, str) and label.strip() != label:
            first = first if count else (place_of(row, number, where), label)
            count += 1
    if count:
        log.warning(
            "%s has the label %r: the white space around it is left out (%d such rows)",
            *(*first, count),
        )
