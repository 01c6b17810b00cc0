"""Append what a benchmark of ranks measures to a CSV file, and know again what is in it."""

from __future__ import annotations

import argparse
import csv
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bilevel.cutting import Criterion
from bilevel.cutting.criteria.registry import CRITERIA
from experiments.cli.quiet import quiet

__all__ = ["EXAMPLES", "array_of", "measure"]

# Of a line: what is said of each test example, (n,), which is kept beside the file.
EXAMPLES = "examples"

Row = dict[str, Any]


def measure(
    page: str,
    fields: Sequence[str],
    key: Callable[[Path], dict[str, str]],
    lines: Callable[[Path, list[Criterion], set[str]], Iterator[Row]],
    together: Callable[[Row], str],
) -> None:
    """Read the command line, and write the lines of each folder.

    Args:
        page: of ``--help``.
        fields: columns.
        key: columns that all lines of a folder share.
        lines: what is to be said of a folder, given the ``what`` that the file has of it already.
        together: lines that are alike in this are written together or not at all, so that what is
            found in the file is whole.
    """
    parser = argparse.ArgumentParser(description=page)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--criteria", default="singular")
    options = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    criteria = [CRITERIA[name]() for name in options.criteria.split(",")]
    before = list(csv.DictReader(options.out.open())) if options.out.is_file() else []
    with options.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, fields)
        if not before:
            writer.writeheader()
        for folder in options.folders:
            shared = key(folder)
            done = {row["what"] for row in before if shared.items() <= row.items()}
            for _, group in itertools.groupby(lines(folder, criteria, done), together):
                rows = _short(group)  # as the file has them, so that arrays are found again
                for row in rows:
                    if (array := row.pop(EXAMPLES, None)) is not None:
                        place = array_of(options.out, row)
                        place.parent.mkdir(exist_ok=True)
                        np.save(place, np.asarray(array, dtype=np.float32))
                writer.writerows(rows)
                file.flush()


def array_of(file: Path, row: Row) -> Path:
    """Where a line's figures of single examples are: in a folder beside its file."""
    said = (str(row.get(key, "")) for key in ("task", "seed", "what", "share"))
    return file.with_suffix("") / ("_".join(said).replace(" ", "") + ".npy")


def _short(rows: Iterable[Row]) -> list[Row]:
    return [{k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows]
