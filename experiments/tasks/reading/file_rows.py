"""Go through the rows of files that are too large for the memory, each time from the disk."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bilevel.errors import UserError
from experiments.tasks.reading.row import Row

__all__ = ["FileRows", "among", "changed"]

Change = Callable[[Row, int], None]


class FileRows(Sequence[Row]):
    """Rows that are read anew each time that they are gone through; nothing of them is kept.

    Args:
        read: begins to read them.
        where: the files, for messages.
        count: how many there are; None counts them, and refuses what is wrong with the files.
        columns: all names in them; None finds them too.
        changes: made to each row as it is read, with its number.
        chosen: which of the file's rows these are; None for all.
        stream: they are to be read as they are trained on, and so many are shuffled with one
            another.

    Raises:
        UserError: a file cannot be parsed.
    """

    def __init__(
        self,
        read: Callable[[], Iterator[Row]],
        where: str,
        count: int | None = None,
        columns: dict[str, None] | None = None,
        changes: tuple[Change, ...] = (),
        chosen: Sequence[bool] | None = None,
        stream: int | None = None,
    ) -> None:
        self.stream = stream
        self._read, self._where, self._changes, self._chosen = read, where, changes, chosen
        if count is None or columns is None:
            count, columns = 0, {}
            for row in read():
                count += 1
                for name in row:
                    columns.setdefault(name)
        self._count, self.columns = count, columns

    def __len__(self) -> int:
        return self._count if self._chosen is None else sum(self._chosen)

    def __iter__(self) -> Iterator[Row]:
        number = -1
        for number, row in enumerate(self._read()):
            for change in self._changes:
                change(row, number)
            if self._chosen is None or (number < self._count and self._chosen[number]):
                yield row
        if number + 1 != self._count:
            raise UserError(f"{self._where} was changed while it was read: start again")

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return list(itertools.islice(self, *index.indices(len(self))))
        return next(itertools.islice(self, range(len(self))[index], None))

    def changed(self, change: Change, *columns: str) -> FileRows:
        """The same rows, each changed when it is read, with these columns besides."""
        more = {**self.columns, **dict.fromkeys(columns)}
        changes = (*self._changes, change)
        return FileRows(
            self._read, self._where, self._count, more, changes, self._chosen, self.stream
        )

    def among(self, chosen: Sequence[bool]) -> FileRows:
        """Those of the file's rows for which ``chosen`` is true."""
        if self.stream is not None:
            raise UserError(
                f"a share of {self._where} is to be the test set, and task.streaming=true holds "
                "none of it: give a file test or validation"
            )
        return FileRows(self._read, self._where, self._count, self.columns, self._changes, chosen)


def changed(rows: Sequence[Row], change: Change, *columns: str) -> Sequence[Row]:
    """Rows with a change made to each, those in memory at once.

    Args:
        rows: of a split.
        change: is handed each row and its number; what it refuses of rows on the disk is refused
            when they are gone through.
        columns: that it adds.
    """
    if isinstance(rows, FileRows):
        return rows.changed(change, *columns)
    for number, row in enumerate(rows):
        change(row, number)
    return rows


def among(rows: Sequence[Row], chosen: Sequence[bool]) -> Sequence[Row]:
    """The rows for which ``chosen``, equally many, is true."""
    if isinstance(rows, FileRows):
        return rows.among(chosen)
    return [row for row, wanted in zip(rows, chosen, strict=True) if wanted]
