"""Make the table: ours beside theirs, theirs with its mark."""

from __future__ import annotations

import csv
import io
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bilevel.errors import UserError, printable
from bilevel.reading import json_object
from experiments import report
from experiments.cli.messages import sentence
from experiments.reproduction.cells import Cell
from experiments.reproduction.entries import AVERAGE, Block, Column
from experiments.reproduction.published import CONFIDENCE, Published, find, shown
from experiments.results.cells import markdown_table
from experiments.results.grid import searched

__all__ = ["FAILED", "Ours", "as_csv", "collect", "markdown"]

FAILED = "failed"
HEADER = (
    *("scale", "model", "caption", "row", "method", "column", "ours_mean", "ours_std", "seeds"),
    *("paper", "paper_spread", "confidence", "source"),
)
Results = Sequence[tuple[Cell, dict[str, Any]]]


@dataclass(frozen=True)
class Ours:
    """Our figure of one row and column.

    Attributes:
        seeds: finished ones; asked: how many there are to be.
        failed: whether a run of it failed this time.
    """

    mean: float | None
    spread: float | None
    seeds: int
    asked: int
    failed: bool

    def __str__(self) -> str:
        if self.mean is None:
            return FAILED if self.failed else "n/a" if self.seeds else "-"
        text = number(self.mean) + ("" if self.spread is None else f" ± {number(self.spread)}")
        return text if self.seeds == self.asked else f"{text} ({self.seeds} of {self.asked} seeds)"


def number(value: float) -> str:
    """Two digits after the point, none in large numbers."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2f}"


def collect(
    block: Block,
    cells: Sequence[Cell],
    results: Results,
    failed: Sequence[Cell],
    stand_ins: bool = False,
) -> dict[tuple[str, str], Ours]:
    """Our figures of a block by row and column, the average included.

    Args:
        block: the block.
        cells: all runs that were asked for.
        results: those that are finished.
        failed: those that failed this time.
        stand_ins: whether the tasks are stand-ins, whose primary metric then stands in too.
    """
    table: dict[tuple[str, str], Ours] = {}
    for label in block.rows:
        for task, name, column in block.columns():
            here = [c for c in cells if c.block is block and (c.row, c.task) == (label, task)]
            if not here:
                continue
            if column.file is not None:
                finished = [c for c, _ in results if c in here]
                table[label, name] = _beside(
                    finished, column, len(here), any(c in failed for c in here)
                )
                continue
            found = [r for c, r in results if c in here]
            points = len({tuple(_point(c).items()) for c in here})
            table[label, name] = _ours(
                _whole(found, points),
                column,
                len(here) // points,
                any(c in failed for c in here),
                stand_ins,
            )
        if block.average:
            means = [table.get((label, name)) for _, name, _ in block.columns()]
            values = [ours.mean for ours in means if ours is not None and ours.mean is not None]
            if values and len(values) == len(means):
                count = min(ours.seeds for ours in means if ours is not None)
                asked = max(ours.asked for ours in means if ours is not None)
                table[label, AVERAGE] = Ours(statistics.fmean(values), None, count, asked, False)
    return table


def _point(cell: Cell) -> dict[str, str]:
    return {key: cell.settings[key] for key in cell.block.rows[cell.row].grid}


def _whole(found: list[dict[str, Any]], points: int) -> list[dict[str, Any]]:
    """Of a grid's runs the best one a seed, at the cost of all, where all of them are there."""
    if points == 1:
        return found
    seeds = [r["seed"] for r in found]
    return searched([r for r in found if seeds.count(r["seed"]) == points])


def _ours(
    found: list[dict[str, Any]], column: Column, asked: int, failed: bool, stand_ins: bool
) -> Ours:
    if not found:
        return Ours(None, None, 0, asked, failed)
    # One row: all are of the same method, task and model.
    (row,) = report.rows([{**r, "variant": ""} for r in found])
    primary = found[0]["primary_metric"]
    metric = column.metric or primary
    if stand_ins and f"{metric}_mean" not in row:
        metric = primary
    mean, spread = (row.get(f"{metric}_{what}") for what in ("mean", "std"))
    return Ours(
        None if mean is None else mean * column.factor,
        None if spread is None else spread * column.factor,
        len(found) if mean is None else sum(_has(r, metric) for r in found),
        asked,
        failed,
    )


def _beside(finished: Sequence[Cell], column: Column, asked: int, failed: bool) -> Ours:
    """A number that another program left in the runs' folders."""
    values = [value for c in finished if (value := _left(c.folder, column)) is not None]
    mean = statistics.fmean(values) * column.factor if values else None
    spread = statistics.stdev(values) * column.factor if len(values) > 1 else None
    count = len(values) if values else len(finished)
    return Ours(mean, spread, count, asked, failed)


def _left(folder: Path, column: Column) -> float | None:
    path = folder / str(column.file)
    if not path.is_file():
        return None
    try:
        found: Any = json_object(path)
    except UserError as error:  # one such file must not cost the table its other numbers
        print(f"passed over: {sentence(error)}", file=sys.stderr)
        return None
    for key in str(column.metric).split("."):
        found = found.get(key) if isinstance(found, dict) else None
    if found is None or (isinstance(found, int | float) and math.isfinite(found)):
        return found
    print(printable(f"passed over: {path}, {column.metric} is no number"), file=sys.stderr)
    return None


def _has(found: dict[str, Any], metric: str) -> bool:
    """Whether a run has a score; METEOR is None where there was no Java."""
    return metric not in found["metrics"] or found["metrics"][metric] is not None


def markdown(block: Block, ours: Mapping[tuple[str, str], Ours], prefix: str = "") -> str:
    """A block's table: two lines a row, ours and the paper's.

    Args:
        block: the block.
        ours: see :func:`collect`.
        prefix: put before each of our figures.
    """
    names = [name for _, name, _ in block.columns()] + ([AVERAGE] if block.average else [])
    lines = [["", "", "parameters", *names]]
    for label, row in block.rows.items():
        theirs = [find(block.published, label, name) for name in names]
        given = [p for p in block.published if p.row == label and p.params]
        best = min(given, key=lambda p: list(CONFIDENCE).index(p.confidence), default=None)
        params = f"{CONFIDENCE[best.confidence]}{best.params}" if best else ""
        mine = [ours.get((label, name)) for name in names]
        first = label if row.method is None else f"{label} (method={row.method})"
        if row.method is None:
            lines.append([first, "not run", "", *("" for _ in names)])
        else:
            lines.append([first, "ours", "", *(_cell(o, prefix) for o in mine)])
        figures = [shown(p, name) for p, name in zip(theirs, names, strict=True)]
        lines.append(["", "paper", params, *figures])
    return markdown_table(lines)


def _cell(ours: Ours | None, prefix: str) -> str:
    if ours is None:
        return "-"
    return str(ours) if ours.mean is None else f"{prefix}{ours}"


def as_csv(tables: Sequence[tuple[Block, Mapping[tuple[str, str], Ours]]], smoke: bool) -> str:
    """All blocks, one line a row and column."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(HEADER)
    for block, ours in tables:
        names = [name for _, name, _ in block.columns()] + ([AVERAGE] if block.average else [])
        for label, row in block.rows.items():
            for name in names:
                mine = ours.get((label, name))
                theirs = find(block.published, label, name)
                writer.writerow(
                    [
                        *("smoke" if smoke else "full", block.model, block.caption, label),
                        *(row.method or "", name),
                        *(("", "", 0) if mine is None else _numbers(mine)),
                        *_published(theirs, name),
                    ]
                )
    return file.getvalue()


def _numbers(ours: Ours) -> tuple[Any, Any, int]:
    return (
        "" if ours.mean is None else round(ours.mean, 6),
        "" if ours.spread is None else round(ours.spread, 6),
        ours.seeds,
    )


def _published(theirs: Published | None, name: str) -> tuple[Any, ...]:
    if theirs is None:
        return ("", "", "", "")
    mean, spread = theirs.values[name]
    return (mean, "" if spread is None else spread, theirs.confidence, theirs.source)
