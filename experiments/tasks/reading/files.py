"""Read the rows (column name -> value) of data files as people have them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bilevel.errors import UserError
from experiments.stored_data.spool import limit
from experiments.tasks.reading.delimited import delimited_rows
from experiments.tasks.reading.dialect import Dialect
from experiments.tasks.reading.file_rows import FileRows
from experiments.tasks.reading.records import json_rows, parquet_rows
from experiments.tasks.reading.row import Row
from experiments.tasks.reading.text import text_pieces

__all__ = ["SUFFIXES", "Row", "each_row", "is_absent", "is_missing", "read_rows"]

TEXTS = (".csv", ".tsv", ".json", ".jsonl")
SUFFIXES = (".parquet", *TEXTS, *(f"{suffix}.gz" for suffix in TEXTS))


def read_rows(
    path: Path | Sequence[Path], dialect: Dialect | None = None, stream: int | None = None
) -> Sequence[Row]:
    """Read the rows of a parquet, json, csv, tsv or jsonl file (the last four also as .gz).

    A json file is one array of objects, or has an object a line. Every value of a csv or tsv file
    is a string. A csv file may quote; a tsv file, like GLUE's own, does not (a quotation mark is
    an ordinary character) unless ``dialect`` says so. Within :func:`spool.spooling` what is too
    large for the memory is read from the disk each time that the rows are gone through.

    Args:
        path: the file, or several that follow one another.
        dialect: how text files are written; None for UTF-8 and what the name says.
        stream: they are to be read as they are trained on, and so many are shuffled with one
            another; None for rows that are held.

    Raises:
        UserError: a file cannot be parsed, or has no rows.
    """
    paths = [path] if isinstance(path, Path) else list(path)
    if stream is not None:
        return _on_disk(paths, dialect, stream)
    most = limit()
    rows: list[Row] = []
    for one in paths:
        before = len(rows)
        rows += itertools.islice(
            each_row(one, dialect, whole=most is None), None if most is None else most + 1 - before
        )
        if most is not None and len(rows) > most:
            del rows
            return _on_disk(paths, dialect)
        if len(rows) == before:
            raise UserError(f"{one} has no rows")
    return rows


def _on_disk(paths: Sequence[Path], dialect: Dialect | None, stream: int | None = None) -> FileRows:
    """The rows of files that are too large for the memory; each is gone through once here."""
    said = False

    def read() -> Iterator[Row]:
        nonlocal said
        again, said = said, True
        for path in paths:
            rows = each_row(path, dialect, again=again)
            first = next(rows, None)
            if first is None:
                raise UserError(f"{path} has no rows")
            yield first
            yield from rows

    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return FileRows(read, f"{paths[0]}{more}", stream=stream)


def each_row(
    path: Path,
    dialect: Dialect | None = None,
    *,
    kind: str | None = None,
    name: Path | None = None,
    whole: bool = False,
    again: bool = False,
) -> Iterator[Row]:
    """The rows of such a file one after the other, in memory that does not grow with it.

    What is wrong with a file as a whole is told at its end. An array of JSON objects is read whole.

    Args:
        path: the file.
        dialect: as of :func:`read_rows`.
        kind: ``csv``, ``tsv``, ``json``, ``jsonl`` or ``parquet``; None for what its name says.
        name: what messages call it, where that is not its path.
        whole: read it in one piece, which is a little quicker.
        again: what is odd in it has been said.

    Raises:
        UserError: it cannot be parsed.
    """
    dialect, place = dialect or Dialect(), name or path
    kind = kind or path.name.lower().removesuffix(".gz").rsplit(".", 1)[-1]
    if kind == "parquet":
        return parquet_rows(path, place)
    pieces = text_pieces(path, dialect, whole=whole, name=place, again=again)
    if kind in ("csv", "tsv"):
        usual = "," if kind == "csv" else "\t"
        return delimited_rows(pieces, place, usual, dialect, again=again)
    return json_rows(pieces, place)


def is_absent(value: Any) -> bool:
    """Tell whether a cell holds no value at all: None, NaN, or what pandas has for them."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and math.isnan(value)


def is_missing(value: Any) -> bool:
    """Tell whether a cell is absent or a blank string."""
    return is_absent(value) or (isinstance(value, str) and not value.strip())
