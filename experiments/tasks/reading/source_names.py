"""Give the rows of training files the name of the source that each is from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bilevel.errors import UserError
from experiments.tasks.reading.file_rows import changed
from experiments.tasks.reading.files import is_missing
from experiments.tasks.reading.row import Row, check_columns, place_of
from experiments.tasks.reading.splits import SplitFiles

__all__ = ["SourceNames", "source_files"]


@dataclass(frozen=True)
class SourceNames:
    """Where the names are: in a column, or with the files.

    Attributes:
        column: of rows; None where files have the names, or nothing has.
        option: what names the column, for messages.
        files: path -> the name of its rows.
    """

    column: str | None = None
    option: str = ""
    files: Mapping[Path, str] = field(default_factory=dict)

    def of_lines(self, path: Path) -> str | None:
        """The source of a file that has a word a line.

        Raises:
            UserError: it is in a column, which such a file has none for.
        """
        if self.column is not None:
            raise UserError(
                f"{self.option}={self.column} names a column of rows (parquet, json), and {path} "
                "has a word a line: give a file for each source, task.sources={a: FILE, b: FILE}"
            )
        return self.files.get(path)

    def put_on(self, rows: Sequence[Row], where: str) -> Sequence[Row]:
        """The rows, each of which knows its source, if it has one.

        Raises:
            UserError: there is no such column, or a row has no name in it.
        """
        if self.column is not None:
            check_columns(rows, [self.column], where)

        def put(row: Row, number: int) -> None:
            if self.column is None:
                row.source = self.files.get(row.path)
            else:
                row.source = self._named(row.get(self.column), place_of(row, number, where))

        return changed(rows, put)

    def _named(self, value: Any, place: str) -> str:
        if is_missing(value) or isinstance(value, (list, dict)):
            raise UserError(
                f"{place} has no name of a source in column {self.column!r} ({self.option}): every "
                "row to train on needs one, a text or a number"
            )
        return str(value).strip()


def source_files(sources: Mapping[str, str], folder: Path, suffixes: Sequence[str]) -> SplitFiles:
    """The files of the sources, in order.

    Args:
        sources: name -> file, as a path or as it is called in the folder.
        folder: of the task's other files.
        suffixes: that a file may end in.

    Raises:
        UserError: a file is not there, is of another kind, or is two sources.
    """
    found: dict[Path, str] = {}
    real: dict[Path, str] = {}
    for name, written in sources.items():
        path = next(
            (p for p in (Path(written).expanduser(), folder / written) if p.is_file()), None
        )
        if path is None and any(p.is_dir() for p in (Path(written).expanduser(), folder / written)):
            raise UserError(
                f"task.sources: {written} (source {name!r}) is a folder, and each source is one "
                "file: name that"
            )
        if path is None:
            raise UserError(
                f"task.sources: there is no file {written} (source {name!r}), neither here nor in "
                f"{folder}"
            )
        if not path.name.lower().endswith(tuple(suffixes)):
            raise UserError(
                f"task.sources: {path} (source {name!r}) must end in one of {', '.join(suffixes)}"
            )
        if (other := real.setdefault(path.resolve(), name)) != name:
            raise UserError(
                f"task.sources: {path} is both {other!r} and {name!r}: a file is one source"
            )
        found[path] = name
    return SplitFiles(found)
