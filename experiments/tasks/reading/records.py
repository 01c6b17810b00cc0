"""Read rows that are objects: json (an array, or an object a line) and Parquet."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilevel.errors import UserError, listed
from experiments.tasks.reading.halves import refuse_halves
from experiments.tasks.reading.row import Row
from experiments.tasks.reading.text import lines_in

if TYPE_CHECKING:
    import pyarrow
    from pyarrow.parquet import ParquetFile

__all__ = ["json_rows", "parquet_rows", "parquet_schema", "refuse_halved"]

SPACE = re.compile(r"[ \t\r\n]*")
# What alone can bring half a character into text that was decoded.
HALF = re.compile(r"\\u[dD][89a-fA-F]")
INDEX = re.compile(r"__index_level_\d+__")  # where pandas keeps the numbers of its rows


def json_rows(pieces: Iterable[str], path: Path) -> Iterator[Row]:
    """The rows of one array of objects, or of an object a line, whatever the file's name says.

    Objects come line by line; an array is read whole.

    Args:
        pieces: of the file's text.
        path: for messages.

    Raises:
        UserError: a value is not JSON or no object, has a key twice, or half a character.
    """
    decoder = json.JSONDecoder(object_pairs_hook=_object, parse_float=_number)
    pieces = iter(pieces)
    begun = []  # up to the first sign
    for piece in pieces:
        begun.append(piece)
        if piece.strip():
            break
    pieces = itertools.chain(begun, pieces)
    try:
        if begun and begun[-1].lstrip().startswith("["):
            yield from _of_array("".join(pieces), path, decoder)
        else:
            yield from _of_lines(pieces, path, decoder)
    except RecursionError as error:
        raise UserError(f"{path} holds JSON that is nested too deeply") from error


def _of_array(text: str, path: Path, decoder: json.JSONDecoder) -> Iterator[Row]:
    halved = HALF.search(text) is not None
    for row in _array(text, path, decoder):
        if halved:
            refuse_halved(row)
        yield row


def _of_lines(pieces: Iterable[str], path: Path, decoder: json.JSONDecoder) -> Iterator[Row]:
    lone: Row | None = None  # the first, until there is another one
    count = 0
    for number, line in enumerate(lines_in(pieces, "\n"), start=1):
        if not line.strip():
            continue
        row = _row(_decoded(line.strip(), decoder, path, number), path, number)
        if HALF.search(line):
            refuse_halved(row)
        count += 1
        if count == 1:
            lone = row
            continue
        if lone is not None:
            yield lone
            lone = None
        yield row
    if lone is None:
        return
    inside = any(isinstance(value, list | dict) for value in lone.values())
    if inside and ".jsonl" not in path.name.lower():
        raise UserError(
            f"{path} is one object with the keys {listed(map(repr, lone))}: it must be an array "
            "of objects, [{...}, ...], one object a row, or have an object a line"
        )
    yield lone


def parquet_rows(path: Path, name: Path | None = None, size: int = 1 << 12) -> Iterator[Row]:
    """The rows of a Parquet file, as Python's own values: integers stay exact.

    Args:
        path: the file.
        name: what messages call it, where that is not its path.
        size: rows that are held at once.

    Raises:
        UserError: it is none, or two of its columns have one name.
    """
    place, number = name or path, 0
    with _parquet(path, place) as (file, names):
        # Threads of Arrow's would keep memory of their own, 26 MiB for SST-2.
        for batch in file.iter_batches(size, use_threads=False):
            for row in batch.select(names).to_pylist():
                yield Row(row, place, number, "row")
                number += 1


def parquet_schema(path: Path, name: Path | None = None) -> pyarrow.Schema:
    """The types of its columns; arguments and errors as :func:`parquet_rows`'s."""
    import pyarrow

    with _parquet(path, name or path) as (file, names):
        return pyarrow.schema([file.schema_arrow.field(column) for column in names])


@contextmanager
def _parquet(path: Path, place: Path) -> Iterator[tuple[ParquetFile, list[str]]]:
    """A Parquet file and its columns, without what pandas keeps its rows' numbers in."""
    import pyarrow
    from pyarrow import parquet

    try:
        # Of the file itself: read_table would make columns of folders named key=value.
        with parquet.ParquetFile(path) as file:
            names = [column for column in file.schema_arrow.names if not INDEX.fullmatch(column)]
            if twice := _repeated(names):
                raise UserError(f"{place} has several columns with the name {twice[0]!r}")
            yield file, names
    except UserError:
        raise
    # A ValueError is what Python makes of bytes that are no UTF-8, or of a repeated field.
    except (pyarrow.ArrowException, OSError, OverflowError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{place} cannot be read as parquet: {reason}") from error


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


def refuse_halved(row: Row) -> None:
    """Refuse a row with half a character in any of its cells or names."""
    refuse_halves(json.dumps(row, default=str, ensure_ascii=False), row.place)
