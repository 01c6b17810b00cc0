"""Read the rows (column name -> value) of data files as people have them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bilevel.errors import UserError
from experiments.tasks.reading.delimited import delimited_rows
from experiments.tasks.reading.dialect import Dialect
from experiments.tasks.reading.records import json_rows, parquet_rows
from experiments.tasks.reading.row import Row
from experiments.tasks.reading.text import text_pieces

__all__ = ["SUFFIXES", "Row", "each_row", "is_absent", "is_missing", "read_rows"]

TEXTS = (".csv", ".tsv", ".json", ".jsonl")
SUFFIXES = (".parquet", *TEXTS, *(f"{suffix}.gz" for suffix in TEXTS))


def read_rows(path: Path | Sequence[Path], dialect: Dialect | None = None) -> list[Row]:
    """Read the rows of a parquet, json, csv, tsv or jsonl file (the last four also as .gz).

    A json file is one array of objects, or has an object a line. Every value of a csv or tsv file
    is a string. A csv file may quote; a tsv file, like GLUE's own, does not (a quotation mark is
    an ordinary character) unless ``dialect`` says so.

    Args:
        path: the file, or several that follow one another.
        dialect: how text files are written; None for UTF-8 and what the name says.

    Raises:
        UserError: a file cannot be parsed, or has no rows.
    """
    if not isinstance(path, Path):
        return [row for one in path for row in read_rows(one, dialect)]
    rows = list(each_row(path, dialect, whole=True))
    if not rows:
        raise UserError(f"{path} has no rows")
    return rows


def each_row(
    path: Path,
    dialect: Dialect | None = None,
    *,
    kind: str | None = None,
    name: Path | None = None,
    whole: bool = False,
) -> Iterator[Row]:
    """The rows of such a file one after the other, in memory that does not grow with it.

    What is wrong with a file as a whole is told at its end. An array of JSON objects is read whole.

    Args:
        path: the file.
        dialect: as of :func:`read_rows`.
        kind: ``csv``, ``tsv``, ``json``, ``jsonl`` or ``parquet``; None for what its name says.
        name: what messages call it, where that is not its path.
        whole: read it in one piece, which is a little quicker.

    Raises:
        UserError: it cannot be parsed.
    """
    dialect, place = dialect or Dialect(), name or path
    kind = kind or path.name.lower().removesuffix(".gz").rsplit(".", 1)[-1]
    if kind == "parquet":
        return parquet_rows(path, place)
    pieces = text_pieces(path, dialect, whole=whole, name=place)
    if kind in ("csv", "tsv"):
        return delimited_rows(pieces, place, "," if kind == "csv" else "\t", dialect)
    return json_rows(pieces, place)


def is_absent(value: Any) -> bool:
    """Tell whether a cell holds no value at all: None, NaN, or what pandas has for them."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and math.isnan(value)


def is_missing(value: Any) -> bool:
    """Tell whether a cell is absent or a blank string."""
    return is_absent(value) or (isinstance(value, str) and not value.strip())
