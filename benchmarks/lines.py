"""Append what a benchmark of ranks measures to a CSV file, and know again what is in it."""

from __future__ import annotations

import argparse
import csv
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from bilevel.cutting import Criterion
from bilevel.cutting.criteria.registry import CRITERIA
from experiments.cli.quiet import quiet

__all__ = ["measure"]

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
                writer.writerows(_short(list(group)))
                file.flush()


def _short(rows: Iterable[Row]) -> list[Row]:
    return [{k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows]
