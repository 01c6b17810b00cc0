"""The runs of an entry: each with its folder, its command, and whether it is there already."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from bilevel.errors import UserError, listed, nearest
from experiments.reproduction import smoke, start
from experiments.reproduction.entries import Block, Entry
from experiments.reproduction.options import Options
from experiments.results import record as result

__all__ = ["Cell", "plan"]

# Where the data lies and where the result goes make no other run of it.
FREE = ("task.data_dir", "hydra.", "run.")


@dataclass(frozen=True, eq=False)
class Cell:
    """One run.

    Attributes:
        row, task: of the block; seed: of the run.
        settings: the options of experiments.run, all but folder and resumption, in order.
        folder: where it goes.
        missing_data: a folder that was named for its data and is not there; None if all is well.
        start: the run whose weights it starts from; None for the pretrained model's.
    """

    block: Block
    row: str
    task: str
    seed: int
    settings: dict[str, str]
    folder: Path
    missing_data: str | None
    start: Cell | None = None

    @property
    def label(self) -> str:
        """What it is, for a person."""
        grid = self.block.rows[self.row].grid
        place = "".join(f", {key.rpartition('.')[2]} {self.settings[key]}" for key in grid)
        origin = "" if self.start is None else f", from {self.start.task}"
        return f"{self.row}{place} on {self.task}, {self.block.model}, seed {self.seed}{origin}"

    def words(self) -> list[str]:
        """The words after ``python -m experiments.run``, as they must be given now."""
        begun = self._begun()
        # One that has begun knows what it started from; the place may be told in other words now.
        known = (start.OPTION,) if begun else ()
        words = [f"{key}={value}" for key, value in self.settings.items() if key not in known]
        words.append(f"hydra.run.dir={self.folder}")
        return [*words, f"run.resume={self.folder}"] if begun else words

    @cached_property
    def _saved(self) -> dict[str, str]:
        """Options that the folder's run was made with; none without a run."""
        path = self.folder / ".hydra" / "overrides.yaml"
        words = [str(word) for word in OmegaConf.load(path)] if path.is_file() else []
        return {key: value for key, _, value in (word.partition("=") for word in words)}

    def result(self) -> dict[str, Any] | None:
        """Its result.json; None while it is not finished.

        Raises:
            UserError: the folder holds a run with other settings.
        """
        values = result.read(self.folder)
        if values is not None:
            self.check()
        return values

    def check(self) -> None:
        """Raise UserError if the folder holds a run with other settings."""
        if not (self._begun() or (self.folder / result.FILE).is_file()):
            return
        # The folder's name says what it starts from; the place of that may be told in other words.
        free = FREE if self.start is None else (*FREE, start.OPTION)
        there, here = (
            {k: v for k, v in s.items() if not k.startswith(free)}
            for s in (self._saved, self.settings)
        )
        differing = [
            f"{key} ({there.get(key, 'not given')} there, {here.get(key, 'not given')} here)"
            for key in sorted(there.keys() | here.keys())
            if there.get(key) != here.get(key)
        ]
        if differing:
            raise UserError(
                f"{self.folder} holds a run with other settings, {listed(differing)}: give "
                "another place with out=DIR"
            )

    def _begun(self) -> bool:
        """Whether there is something to go on with: a run that has trained a little."""
        saved = (self.folder / ".hydra" / "config.yaml").is_file()
        return saved and (self.folder / "metrics.jsonl").is_file()


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
