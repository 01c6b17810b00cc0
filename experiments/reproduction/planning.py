"""Plan the runs of an entry that were asked for, and those that they start from."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bilevel.errors import UserError, listed, nearest
from experiments.reproduction import smoke, start
from experiments.reproduction.cells import Cell
from experiments.reproduction.entries import Block, Entry
from experiments.reproduction.options import Options

__all__ = ["plan"]


def plan(entry: Entry, options: Options) -> list[Cell]:
    """All runs of an entry that were asked for, and those that they start from.

    Raises:
        UserError: nothing matches ``only``, or there is nothing to start from.
    """
    every = [cell for block in entry.blocks for cell in _cells(block, entry, options)]
    if options.warm_start:
        every = start.warmed(every, entry.name)
    cells = every
    for patterns in options.only:
        for pattern in patterns:
            if not any(_matches(cell, pattern) for cell in every):
                known = sorted({name for cell in every for name in _names(cell)})
                raise UserError(
                    f"only={pattern} matches no task, row, method or model of {entry.name}: it has "
                    f"{listed(known)}{nearest(pattern, known)}"
                )
        cells = [cell for cell in cells if any(_matches(cell, p) for p in patterns)]
    if not cells:
        raise UserError(f"no run of {entry.name} matches all of the only= that were given")
    return start.first(cells)


def _cells(block: Block, entry: Entry, options: Options) -> Iterator[Cell]:
    seeds = options.seeds or (entry.seeds[:1] if options.smoke else entry.seeds)
    for label, row in block.rows.items():
        points: list[dict[str, Any]] = [
            {key: value} for key, values in row.grid.items() for value in values
        ]
        for task in row.only or block.tasks:
            if row.method is None or task not in block.tasks:
                continue
            for point in points or [{}]:
                for seed in seeds:
                    yield _cell(block, label, task, seed, point, options)


def _cell(
    block: Block, label: str, task: str, seed: int, point: dict[str, Any], options: Options
) -> Cell:
    row = block.rows[label]
    groups = {"method": row.method, "task": task, "model": block.model}
    given: dict[str, Any] = {**block.words(row, task), **point}
    data = options.data_dir(task)
    if options.smoke:
        groups, given = smoke.stand_in(groups, given)
        data = None
    elif data is not None:
        given["task.data_dir"] = data
    settings = {**groups, "seed": seed, **given, **options.overrides}
    parts = [block.model, block.caption, label, task, *(f"{v}" for v in point.values())]
    name = "_".join(_slug(part) for part in parts if part)
    return Cell(
        block=block,
        row=label,
        task=task,
        seed=seed,
        settings={key: _word(value) for key, value in settings.items()},
        folder=options.out / block.table / f"{name}_seed{seed}",
        missing_data=data if data is not None and not Path(data).is_dir() else None,
    )


def _names(cell: Cell) -> list[str]:
    method = cell.block.rows[cell.row].method
    return [cell.task, cell.row, str(method), cell.block.model]


def _matches(cell: Cell, pattern: str) -> bool:
    return any(fnmatch.fnmatch(name.lower(), pattern.lower()) for name in _names(cell))


def _slug(text: str) -> str:
    """A name without anything that a shell or a file system could take for something else."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-")


def _word(value: Any) -> str:
    """A value as Hydra reads it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
