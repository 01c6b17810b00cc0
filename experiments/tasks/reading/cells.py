"""Take texts out of cells: what is no text, like an object or bytes, is refused, not printed."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from numbers import Number
from typing import Any

from bilevel.errors import UserError, listed
from experiments.tasks.reading.files import is_absent, is_missing
from experiments.tasks.reading.halves import refuse_halves

__all__ = [
    *("columns_told", "is_list", "kind_of", "list_of", "looks_printed", "text_in", "text_of"),
    *("texts_of", "words_of"),
]

SHOWN = 12  # columns in a message

# As str() and JSON write lists of texts.
PRINTED = re.compile(r"\[\s*(?:\]|(['\"]).*\1\s*\])", re.DOTALL)


def is_list(value: Any) -> bool:
    """Tell whether a cell holds several values (Parquet's and numpy's arrays are lists too)."""
    return isinstance(value, list | tuple | set) or (
        hasattr(value, "tolist") and getattr(value, "ndim", 0) > 0
    )


def looks_printed(value: Any) -> bool:
    """Tell whether a text is a list of texts that was written into a cell, as pandas does."""
    return isinstance(value, str) and PRINTED.fullmatch(value.strip()) is not None


def kind_of(value: Any) -> str:
    """What a cell holds, in a word or two for a message."""
    if isinstance(value, Mapping):
        return "an object"
    if is_list(value):
        return "a list"
    if isinstance(value, bytes | bytearray | memoryview):
        return "bytes"
    if isinstance(value, Number) and not isinstance(value, complex):
        return "a number"
    if is_absent(value):
        return "nothing"
    return "a text" if isinstance(value, str) else f"a {type(value).__name__}"


def text_of(value: Any, column: str, place: str) -> str:
    """The text in a cell; a number is written as Python does.

    Raises:
        UserError: there is none, or something else, or it holds half a character.
    """
    if isinstance(value, str):
        refuse_halves(value, place)
        return value
    if is_absent(value):
        raise UserError(f"{place} has no text in column {column!r}")
    if isinstance(value, Number) and not isinstance(value, complex):
        if isinstance(value, float | Decimal) and not math.isfinite(value):
            raise UserError(f"{place} has {value} in column {column!r}: this is no text")
        return str(value)
    raise UserError(
        f"{place} has {kind_of(value)} in column {column!r}, {str(value)[:60]!r}, where a "
        "text must be: name a column of texts, or write the text itself into it"
    )


def text_in(row: Mapping[str, Any], column: str, place: str) -> str:
    """The text in a row's column, which the rows of one of several files may not have.

    Raises:
        UserError: as :func:`text_of`, or there is no such column.
    """
    if column not in row:
        raise UserError(f"{place} has no text in column {column!r}: {columns_told(row)}")
    return text_of(row[column], column, place)


def columns_told(row: Mapping[str, Any]) -> str:
    """What columns a row has, for messages."""
    known = [repr(name) for name in itertools.islice(row, SHOWN)]
    return f"its columns are {listed([*known, *(['more'] * (len(row) > SHOWN))])}"


def list_of(value: Any, column: str, place: str) -> list[Any]:
    """The values in a cell that holds a list, or one alone.

    Raises:
        UserError: it is a list that was printed into a text.
    """
    if looks_printed(value):
        raise UserError(
            f"{place} has {str(value)[:60]!r} in column {column!r}: a list that was printed into a "
            "text; jsonl and parquet files hold lists"
        )
    return list(value) if is_list(value) else [value]


def texts_of(value: Any, column: str, place: str) -> list[str]:
    """The texts in a cell, which holds one or (Parquet, json) a list; blank ones are left out.

    Raises:
        UserError: one of them is something else.
    """
    values = list(value) if is_list(value) else [value]
    return [text_of(text, column, place) for text in values if not is_missing(text)]


def words_of(values: Sequence[Any], place: str) -> tuple[str, ...]:
    """The words of a sentence.

    Raises:
        UserError: one of them is no text, or an empty one, or holds half a character.
    """
    for number, word in enumerate(values):
        if not isinstance(word, str) or not word:
            raise UserError(
                f"word {number} of {place} is {word!r}: a word must be a text that is not empty"
            )
        refuse_halves(word, place)
    return tuple(values)
