"""Find and read a folder's data files, one for each split, as rows (column name -> value)."""

import csv
import gzip
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bilevel.errors import UserError

__all__ = ["SUFFIXES", "Row", "find_split", "is_absent", "is_missing", "read_rows"]

Row = dict[str, Any]

SUFFIXES = (".parquet", ".csv", ".tsv", ".json", ".jsonl", ".csv.gz", ".tsv.gz", ".jsonl.gz")


def find_split(data_dir: str, split: str, suffixes: Sequence[str] = SUFFIXES) -> Path | None:
    """Return the file of a split, e.g. DIR/train.csv, or None when there is none.

    Args:
        data_dir: the folder.
        split: the file's name without its suffix.
        suffixes: those that are looked for.

    Raises:
        UserError: the folder does not exist, or two files could be meant.
    """
    folder = Path(data_dir).expanduser()
    if not folder.is_dir():
        raise UserError(f"task.data_dir={data_dir} is no folder")
    found = [
        folder / (split + suffix) for suffix in suffixes if (folder / (split + suffix)).is_file()
    ]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(f"{folder} holds several files for the split {split!r} ({names}): keep one")
    return found[0] if found else None


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a parquet, json, csv, tsv or jsonl file (the last three also as .gz).

    A json file is one array of objects. Every value of a csv or tsv file is a string. A csv file
    may quote; a tsv file, like GLUE's own, does not (a quotation mark is an ordinary character).

    Raises:
        UserError: the file cannot be parsed, or has no rows.
    """
    import pandas as pd

    kind = path.name.removesuffix(".gz").rsplit(".", 1)[-1]
    try:
        if kind == "parquet":
            rows = pd.read_parquet(path).to_dict("records")
        elif kind == "json":
            rows = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise ValueError("it must be one array of objects, [{...}, ...]")
        elif kind == "jsonl":
            open_text = gzip.open if path.suffix == ".gz" else open
            with open_text(path, "rt", encoding="utf-8") as lines:
                rows = [json.loads(line) for line in lines if line.strip()]
            if not all(isinstance(row, dict) for row in rows):
                raise ValueError("every line must be an object {...}")
        else:
            # "NA", "None" and "null" are words here, not missing values.
            if kind == "tsv":
                frame = pd.read_csv(
                    path, sep="\t", quoting=csv.QUOTE_NONE, dtype=str, keep_default_na=False
                )
            else:
                frame = pd.read_csv(path, dtype=str, keep_default_na=False)
            rows = frame.to_dict("records")
    except pd.errors.EmptyDataError:
        rows = []
    except (ValueError, OSError, EOFError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{path} cannot be read as {kind}: {reason}") from error
    if not rows:
        raise UserError(f"{path} has no rows")
    return [{str(key): value for key, value in row.items()} for row in rows]


def is_absent(value: Any) -> bool:
    """Tell whether a cell holds no value at all: None or NaN."""
    import pandas as pd  # here: a configuration is checked without it

    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def is_missing(value: Any) -> bool:
    """Tell whether a cell is absent or a blank string."""
    return is_absent(value) or (isinstance(value, str) and not value.strip())
