"""Serve training examples that are read as they are trained on: in no memory, on no disk."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np

from bilevel.errors import UserError
from bilevel.streams import in_order
from experiments.stored_data.columns import chunks

__all__ = ["StreamedExamples", "StreamedRows"]

KEPT = 4  # choices of rows that are kept in memory, those that are scored while training

Make = Callable[[int, Any], Sequence[Any]]


class StreamedExamples(Sequence[Any]):
    """Examples of rows that are read anew each time; every one of them is made once here.

    Args:
        rows: as often as they are gone through.
        make: from a row's number and the row to its examples; raises UserError.
        buffer: how many are shuffled with one another.

    Raises:
        UserError: of ``make``.
    """

    def __init__(self, rows: Sequence[Any], make: Make, buffer: int) -> None:
        self._rows, self._make, self.buffer = rows, make, buffer
        labels: list[np.ndarray] = []
        self._count = 0
        for chunk in chunks(self):
            self._count += len(chunk)
            if "label" in chunk[0]._fields:
                labels.append(np.array([example.label for example in chunk]))
        self._labels = np.concatenate(labels) if labels else None

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        for number, row in enumerate(self._rows):
            yield from self._make(number, row)

    def __getitem__(self, index: Any) -> Any:
        return _first(self, index, self.buffer)

    def numbers(self, name: str) -> list[Any]:
        """``label`` of each, the one part that is kept."""
        assert name == "label"
        assert self._labels is not None
        found: list[Any] = self._labels.tolist()
        return found

    def sources(self) -> list[str | None]:
        """No source has a name: a stream is of one."""
        return [None]


class StreamedRows(Sequence[dict[str, Any]]):
    """Tokenised examples of a stream (:class:`bilevel.streams.Streamed`).

    Args:
        examples: that are read.
        tokenise: makes rows of some of them, and says nothing.
    """

    def __init__(
        self, examples: StreamedExamples, tokenise: Callable[[list[Any]], list[dict[str, Any]]]
    ) -> None:
        self._examples, self._tokenise = examples, tokenise
        self.buffer = examples.buffer
        self._kept: dict[bytes, list[dict[str, Any]]] = {}

    def __len__(self) -> int:
        return len(self._examples)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for chunk in chunks(self._examples):
            yield from self._tokenise(chunk)

    def __getitem__(self, index: Any) -> Any:
        return _first(self, index, self.buffer)

    def read(self) -> Iterator[Any]:
        """See :class:`bilevel.streams.Streamed`."""
        return iter(self._examples)

    def prepared(self, found: list[Any]) -> list[dict[str, Any]]:
        """See :class:`bilevel.streams.Streamed`."""
        return self._tokenise(found)

    def taken(self, indices: Any) -> TakenRows:
        """See :class:`bilevel.views.OnDisk`."""
        return TakenRows(self, np.asarray(indices, dtype=np.int64))

    def keys(self) -> Iterator[tuple[Hashable, int]]:
        """See :class:`bilevel.views.OnDisk`."""
        return ((id(self), number) for number in range(len(self)))

    def chosen(self, indices: np.ndarray) -> list[dict[str, Any]]:
        """Some rows, read once and kept while few others are asked for."""
        name = indices.tobytes()
        if name not in self._kept:
            found = list(in_order(self.read(), indices, len(self)))
            if len(self._kept) == KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[name] = self.prepared(found) if found else []
        return self._kept[name]


class TakenRows(Sequence[dict[str, Any]]):
    """Some rows of a stream, which is read when they are first asked for."""

    def __init__(self, rows: StreamedRows, indices: np.ndarray) -> None:
        self._rows, self._indices = rows, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: Any) -> Any:
        return self._rows.chosen(self._indices)[index]

    def taken(self, indices: Any) -> TakenRows:
        """See :class:`bilevel.views.OnDisk`."""
        return TakenRows(self._rows, self._indices[np.asarray(indices, dtype=np.int64)])

    def keys(self) -> Iterator[tuple[Hashable, int]]:
        """See :class:`bilevel.views.OnDisk`."""
        return ((id(self._rows), number) for number in self._indices.tolist())


def _first(stream: Sequence[Any], index: Any, most: int) -> Any:
    """An item from the beginning of a stream, or several.

    Raises:
        UserError: it is further behind.
    """
    if isinstance(index, slice):
        return list(itertools.islice(iter(stream), *index.indices(len(stream))))
    if not 0 <= index < most:
        raise UserError(
            "task.streaming=true reads the training examples one after the other, and single ones "
            "are asked for: set task.streaming=false"
        )
    return next(itertools.islice(iter(stream), index, None))
