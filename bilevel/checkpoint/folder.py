"""Keep a run's checkpoints in a folder, and find the newest good one after a crash."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

from bilevel.checkpoint.state_file import (
    CheckpointDamaged,
    flatten,
    load_state,
    save_state,
    unflatten,
)
from bilevel.errors import UserError

__all__ = [
    "CheckpointDamaged",
    "Checkpointer",
    "flatten",
    "load_state",
    "save_state",
    "unflatten",
]

log = logging.getLogger(__name__)

_NAME = re.compile(r"(\d{2})-(.+)-(\d{8})\.safetensors")


class Checkpointer:
    """Keeps the ``keep`` newest checkpoints of a run in ``folder``.

    Names sort by age, ``00-search-00000120.safetensors``: the stage's place in the order in which
    stages were first saved, the stage, the step in it.
    """

    def __init__(self, folder: str | os.PathLike[str], keep: int = 2) -> None:
        if keep < 1:
            raise UserError(f"a run must keep at least one checkpoint, got keep={keep}")
        self.folder = Path(folder)
        self.keep = keep
        self.last_good: Path | None = None
        self._damaged: list[Path] = []

    def paths(self) -> list[Path]:
        """The checkpoints there are, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(p for p in self.folder.iterdir() if _NAME.fullmatch(p.name))

    def save(self, tag: str, step: int, state: Any) -> Path:
        """Write a checkpoint of stage ``tag`` at ``step``, then delete those beyond ``keep``."""
        if not re.fullmatch(r"[\w.-]+", tag):
            raise UserError(
                f"stage name {tag!r} cannot be part of a file name: use letters, digits and . _ -"
            )
        for leftover in self.folder.glob(".*.safetensors.*.tmp"):
            leftover.unlink()  # of a process that was killed while writing
        path = self.folder / f"{self._place(tag):02d}-{tag}-{step:08d}.safetensors"
        save_state(path, state)
        self.last_good = path
        # Set aside what could not be read: it must not count as one of those kept, nor come first
        # among the newest once more.
        for damaged in self._damaged:
            if damaged != path and damaged.exists():
                damaged.rename(damaged.with_name(damaged.name + ".damaged"))
        self._damaged.clear()
        for old in self.paths()[: -self.keep]:
            if old != path:
                old.unlink()
        return path

    def latest(self) -> tuple[Path, Any] | None:
        """The newest good checkpoint and its state; None when there is none at all.

        Damaged ones are reported by a warning and passed over; if all are, :class:`UserError`.
        """
        problems: list[CheckpointDamaged] = []
        self._damaged.clear()
        for path in reversed(self.paths()):
            try:
                state = load_state(path)
            except CheckpointDamaged as problem:
                problems.append(problem)
                self._damaged.append(path)
                continue
            for damage in problems:
                log.warning("%s; using %s instead", damage, path.name)
            self.last_good = path
            return path, state
        if problems:
            raise UserError(
                f"every checkpoint in {self.folder} is damaged "
                f"({', '.join(p.name for p in self._damaged)}): start the run afresh"
            )
        return None

    def _place(self, tag: str) -> int:
        places = {m[2]: int(m[1]) for p in self.paths() if (m := _NAME.fullmatch(p.name))}
        return places.get(tag, max(places.values(), default=-1) + 1)
