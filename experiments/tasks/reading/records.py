"""Read rows that are objects: json (an array, or an object a line) and Parquet."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from bilevel.errors import UserError, listed
from experiments.tasks.reading.row import Row

__all__ = ["read_json", "read_parquet"]

SPACE = re.compile(r"[ \t\r\n]*")
# What alone can bring half a character into text that was decoded.
HALF = re.compile(r"\\u[dD][89a-fA-F]")
INDEX = re.compile(r"__index_level_\d+__")  # where pandas keeps the numbers of its rows


def read_json(text: str, path: Path) -> list[Row]:
    """The rows of one array of objects, or of an object a line, whatever the file's name says.

    Raises:
        UserError: a value is not JSON or no object, has a key twice, or half a character.
    """
    decoder = json.JSONDecoder(object_pairs_hook=_object, parse_float=_number)
    try:
        if array := text.lstrip().startswith("["):
            rows = _array(text, path, decoder)
        else:
            rows = [
                _row(_decoded(line.strip(), decoder, path, number), path, number)
                for number, line in enumerate(text.split("\n"), start=1)
                if line.strip()
            ]
        for row in rows if HALF.search(text) else ():
            _refuse_halves(row)
    except RecursionError as error:
        raise UserError(f"{path} holds JSON that is nested too deeply") from error
    lone = not array and len(rows) == 1 and ".jsonl" not in path.name.lower()
    if lone and any(isinstance(value, list | dict) for value in rows[0].values()):
        raise UserError(
            f"{path} is one object with the keys {listed(map(repr, rows[0]))}: it must be an array "
            "of objects, [{...}, ...], one object a row, or have an object a line"
        )
    return rows


def read_parquet(path: Path) -> list[Row]:
    """The rows of a Parquet file, as Python's own values: integers stay exact.

    Raises:
        UserError: it is none, or two of its columns have one name.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        # Of the file itself: read_table would make columns of folders named key=value.
        with parquet.ParquetFile(path) as file:
            table = file.read()
        names = [name for name in table.column_names if not INDEX.fullmatch(name)]
        twice = _repeated(names)
        # A ValueError is what Python makes of bytes that are no UTF-8, or of a repeated field.
        rows = [] if twice else table.select(names).to_pylist()
    except (pyarrow.ArrowException, OSError, OverflowError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{path} cannot be read as parquet: {reason}") from error
    if twice:
        raise UserError(f"{path} has several columns with the name {twice[0]!r}")
    return [Row(row, path, number, "row") for number, row in enumerate(rows)]


def _array(text: str, path: Path, decoder: json.JSONDecoder) -> list[Row]:
    """Element by element, for the line of each."""
    rows: list[tuple[int, Any]] = []
    line, counted = 1, 0
    spot = _skip(text, text.index("[") + 1)
    if text[spot : spot + 1] == "]":
        return []
    while True:
        line, counted = line + text.count("\n", counted, spot), spot
        value, spot = _decoded_at(text, spot, decoder, path, line)
        rows.append((line, value))
        spot = _skip(text, spot)
        mark = text[spot : spot + 1]
        spot = _skip(text, spot + 1)
        if mark == "]" and spot == len(text):
            break
        if mark != ",":
            line += text.count("\n", counted, spot)
            problem = "something follows the array" if mark == "]" else "a comma is missing"
            raise UserError(f"{path} is no array of JSON objects: {problem} in line {line}")
    apart = len({line for line, _ in rows}) == len(rows)
    return [
        _row(value, path, line, "line") if apart else _row(value, path, number, "row")
        for number, (line, value) in enumerate(rows)
    ]


def _skip(text: str, spot: int) -> int:
    found = SPACE.match(text, spot)
    assert found is not None  # it matches nothing, too
    return found.end()


def _decoded(line: str, decoder: json.JSONDecoder, path: Path, number: int) -> Any:
    value, end = _decoded_at(line, 0, decoder, path, number)
    if end != len(line):
        raise UserError(
            f"line {number} of {path} is no JSON object: {line[end:][:20]!r} follows it; there "
            "must be one object {...} a line, or one array of objects [{...}, ...]"
        )
    return value


def _decoded_at(
    text: str, spot: int, decoder: json.JSONDecoder, path: Path, line: int
) -> tuple[Any, int]:
    try:
        return decoder.raw_decode(text, spot)
    except json.JSONDecodeError as error:
        line += text.count("\n", spot, error.pos)
        raise UserError(
            f"line {line} of {path} is not JSON: {error.msg} (column {error.colno}); there must be "
            "one object {...} a line, or one array of objects [{...}, ...]"
        ) from error
    except ValueError as error:  # a key twice, a number of too many digits
        raise UserError(f"line {line} of {path}: {error}") from error


def _row(value: Any, path: Path, number: int, unit: str = "line") -> Row:
    if isinstance(value, dict):
        return Row(value, path, number, unit)
    row = Row({}, path, number, unit)
    raise UserError(
        f"{row.place} must be an object {{...}}, not {json.dumps(value, default=str)[:40]}"
    )


def _number(text: str) -> float | Decimal:
    """A number with a point; a float only where it is exact, so that different ones stay so."""
    number = float(text)
    try:
        exact = math.isinf(number) or Decimal(repr(number)) == Decimal(text)
        return number if exact else Decimal(text)
    except InvalidOperation as error:  # an exponent of twenty digits
        raise ValueError(f"the number {text[:40]} cannot be told from 0") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = _repeated([name for name, _ in pairs])
        raise ValueError(f"the object has twice {listed(map(repr, twice))}")
    return found


def _repeated(names: list[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)


def _refuse_halves(row: Row) -> None:
    """Refuse half a character (a surrogate), which no tokenizer takes and no file can hold."""
    try:
        json.dumps(row, default=str, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start].encode("unicode_escape").decode()
        raise UserError(
            f"{row.place} holds half a character, {half}, as where a text was cut within one: "
            "leave it out"
        ) from error
