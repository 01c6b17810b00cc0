"""Keep what is predicted in parts beside the file to be, so that an interrupted run goes on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bilevel.checkpoint.disk import sync, told_when_full
from bilevel.errors import UserError, listed
from bilevel.reading import json_object
from experiments.cli.writing import beside, write_atomically
from experiments.predicting.formats import Format

__all__ = ["Parts", "refuse_taken"]

STATE = "state.json"
LOCK = "lock"
# What each value of the state is called where it is another one.
MEANINGS = {
    "data": "the data are others",
    "run": "the run, its adapter or what is said of its task is another one",
    "options": "format=, keep= or empty= is another one",
    "window": "it is of another version of this program",
}


def refuse_taken(out: Path) -> None:
    """Refuse a place that cannot be written to, or where something is already.

    Raises:
        UserError: says what.
    """
    if not out.parent.is_dir():
        raise UserError(f"out={out}: there is no folder {out.parent}")
    if out.exists():
        raise UserError(f"out={out} is there already: give another file, or move it away")
    folder = Parts.folder_of(out)
    if folder.exists() and not (folder / STATE).is_file():
        raise UserError(f"out={out} needs the name {folder}, which is taken: move it away")


@dataclass(frozen=True)
class Parts:
    """The parts that are complete, in a folder ``OUT.parts``.

    Attributes:
        out: the file to be.
        format: how it is written.
        window: rows of a part; the last may have fewer.
    """

    out: Path
    format: Format
    window: int

    @staticmethod
    def folder_of(out: Path) -> Path:
        """The folder for a file to be."""
        return out.with_name(f"{out.name}.parts")

    @property
    def folder(self) -> Path:
        """Where they are."""
        return self.folder_of(self.out)

    @contextmanager
    def opened(self, state: Mapping[str, str]) -> Iterator[None]:
        """Begin, or go on where the last part ends; nobody else writes in here.

        Args:
            state: what the predictions follow from, by the names of ``MEANINGS``.

        Raises:
            UserError: what is there follows from something else, or is being written now.
        """
        with told_when_full(self.folder):
            lock = FileLock(self.folder / LOCK, timeout=0)
            try:
                lock.acquire()
            except Timeout as error:
                raise UserError(f"out={self.out} is being written by another program") from error
        try:
            self._check(state)
            yield
        finally:
            lock.release()

    def _check(self, state: Mapping[str, str]) -> None:
        place = self.folder / STATE
        wanted = {**state, "window": str(self.window)}
        if not place.is_file() or not self.paths():
            write_atomically(place, json.dumps(wanted) + "\n")
            return
        there = json_object(place)
        other = [meaning for key, meaning in MEANINGS.items() if there.get(key) != wanted.get(key)]
        if other:
            raise UserError(
                f"{self.folder} holds the beginning of other predictions ({listed(other)}): give "
                "another out=FILE, or move that folder away"
            )

    def paths(self) -> list[Path]:
        """The complete ones, in order; behind one that is missing none counts."""
        found: list[Path] = []
        while (path := self._path(len(found))).is_file():
            found.append(path)
        return found

    def add(self, number: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write part ``number`` (from 0), all of it or nothing.

        Raises:
            UserError: the disk is full, or a value has no place in the file.
        """
        write_atomically(self._path(number), self.format.part(rows))

    def join(self) -> None:
        """Put them together into the file, whole or not at all, and remove them.

        Raises:
            UserError: the disk is full, or the file has come to be there meanwhile.
        """
        with told_when_full(self.out.parent):
            aside = beside(self.out, ".tmp")
            try:
                with aside.open("wb") as file:
                    self.format.join(self.paths(), file)
                    file.flush()
                    os.fsync(file.fileno())
                if self.out.exists():
                    raise UserError(f"out={self.out} has come to be there meanwhile: move it away")
                os.replace(aside, self.out)
            finally:
                aside.unlink(missing_ok=True)
            sync(self.out.parent)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08}{self.format.suffix}"
