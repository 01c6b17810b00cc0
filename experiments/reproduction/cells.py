"""Know a run of an entry: its folder, its command, and whether it is there already."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bilevel.errors import UserError, listed
from experiments.cli import places
from experiments.config import stored
from experiments.reproduction.entries import AS_PUBLISHED, Block
from experiments.results import record

__all__ = ["START", "Cell"]

# Where the data lies and where the result goes make no other run of it.
FREE = ("task.data_dir", "engine.cache_", "hydra.", "run.")
# The option that names the run to start from.
START = "model.warm_start"


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
        known = (START,) if begun else ()
        given = [f"{key}={value}" for key, value in self.settings.items() if key not in known]
        words = [*places.settled(given), places.word("hydra.run.dir", self.folder)]
        return [*words, places.word("run.resume", self.folder)] if begun else words

    @cached_property
    def _saved(self) -> dict[str, str]:
        """Options that the folder's run was made with; none without a run."""
        path = self.folder / stored.HYDRA / "overrides.yaml"
        words = stored.words(self.folder) if path.is_file() else []
        pairs = [(key, value) for key, _, value in (word.partition("=") for word in words)]
        said = {k: places.read(v) or v if places.is_place(k) else v for k, v in pairs}
        # Before there were these options, runs were made so.
        before = {k: value for k, value in AS_PUBLISHED.items() if k in self.settings}
        return {**before, **said} if said else {}

    def result(self) -> dict[str, Any] | None:
        """Its result.json; None while it is not finished.

        Raises:
            UserError: the folder holds a run with other settings.
        """
        values = record.read(self.folder)
        if values is not None:
            self.check()
        return values

    def check(self) -> None:
        """Raise UserError if the folder holds a run with other settings."""
        if not (self._begun() or (self.folder / record.FILE).is_file()):
            return
        # The folder's name says what it starts from; the place of that may be told in other words.
        free = FREE if self.start is None else (*FREE, START)
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
        """Whether there is something to go on with: a run that has left something."""
        saved = (self.folder / ".hydra" / "config.yaml").is_file()
        files = (self.folder / "metrics.jsonl", self.folder / stored.JOURNAL)
        return saved and any(path.is_file() for path in files)
