"""Make tables of a page: of words and numbers that sort, and of counts that are coloured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.plots import modules

__all__ = [
    "Cell",
    "Column",
    "Grid",
    "Heat",
    "Shade",
    "flat",
    "matrix",
    "number",
    "of_ranks",
    "without_empty",
]


@dataclass(frozen=True)
class Cell:
    """A cell: what is read, what it is sorted by (the text, where None), and where it leads."""

    text: str
    value: float | None = None
    link: str | None = None


@dataclass(frozen=True)
class Column:
    """A column; numbers stand at its right end."""

    name: str
    number: bool = False


@dataclass(frozen=True)
class Grid:
    """A table with a title."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Shade:
    """A coloured cell: its text, how strong the colour is (0 to 1), and whether it is a mistake."""

    text: str
    share: float
    wrong: bool = False


@dataclass(frozen=True)
class Heat:
    """A table of coloured cells; None is no cell."""

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Shade | None]]]


def number(value: float | int | None, digits: int = 4) -> Cell:
    """A number as a cell: whole ones with commas, others with so many digits; none is empty."""
    if value is None or not math.isfinite(value):
        return Cell("")
    return Cell(f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}", value)


def without_empty(grid: Grid) -> Grid:
    """The table without the columns that nothing is in."""
    kept = [i for i, _ in enumerate(grid.columns) if any(row[i].text for row in grid.rows)]
    rows = [[row[i] for i in kept] for row in grid.rows]
    return Grid(grid.title, [grid.columns[i] for i in kept], rows)


def matrix(title: str, names: Sequence[str], counts: Sequence[Sequence[int]]) -> Heat:
    """How often the class of a row was taken for that of a column, coloured by its row's share."""
    rows = []
    for i, (name, line) in enumerate(zip(names, counts, strict=True)):
        total = max(1, sum(line))
        shades = [Shade(f"{n:,}", n / total, wrong=i != j) for j, n in enumerate(line)]
        rows.append((name, shades))
    return Heat(title, names, rows)


def of_ranks(title: str, runs: Mapping[str, Mapping[str, int]]) -> list[Heat]:
    """The ranks of runs: of one run a row a part of the layers, of several a table a part.

    Args:
        title: of the table, or the beginning of the titles.
        runs: name -> module -> rank.
    """
    layers, parts, cells = modules.grid(dict.fromkeys(n for r in runs.values() for n in r))
    top = max(1, *(rank for ranks in runs.values() for rank in ranks.values()))
    columns = ["" if layer is None else str(layer) for layer in layers]
    shades: dict[tuple[str, int], list[Shade | None]] = {
        (run, part): [None] * len(layers) for run in runs for part in range(len(parts))
    }
    for run, ranks in runs.items():
        for name, rank in ranks.items():
            part, layer = cells[name]
            shades[run, part][layer] = Shade(str(rank), rank / top)
    if len(runs) == 1:
        (run,) = runs
        return [Heat(title, columns, [(part, shades[run, i]) for i, part in enumerate(parts)])]
    return [
        Heat(f"{title}: {part}", columns, [(run, shades[run, i]) for run in runs])
        for i, part in enumerate(parts)
    ]


def flat(values: Any, before: str = "") -> Iterable[tuple[str, str]]:
    """Mappings in one another as pairs of ``a.b.c`` and a text."""
    if isinstance(values, Mapping) and values:
        for key, value in values.items():
            yield from flat(value, f"{before}.{key}" if before else str(key))
    else:
        yield before, "null" if values is None else str(values)
