"""Decide, while a task reads its data, whether they are held in memory or on the disk.

Within :func:`spooling` a sequence of more than so many rows or examples goes to the disk as it
comes. Everywhere else, in ``predict`` and ``evaluate`` say, all is held in memory.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar, runtime_checkable

__all__ = ["StreamOf", "from_rows", "held", "limit", "spooling"]

T = TypeVar("T")

log = logging.getLogger(__name__)

_LIMIT: ContextVar[int | None] = ContextVar("limit", default=None)


@contextmanager
def spooling(most: int | None) -> Iterator[None]:
    """In here no more than ``most`` rows or examples are held in memory; None for any number."""
    token = _LIMIT.set(most)
    try:
        yield
    finally:
        _LIMIT.reset(token)


def limit() -> int | None:
    """How many are held in memory at most; None for any number."""
    return _LIMIT.get()


@runtime_checkable
class StreamOf(Protocol):
    """Rows that are to be read as they are trained on.

    Attributes:
        stream: how many are shuffled with one another; None for rows that are held.
    """

    stream: int | None


def from_rows(
    rows: Sequence[Any], make: Callable[[int, Any], Sequence[T]], where: str
) -> Sequence[T]:
    """The examples of rows: as :func:`held`, or read anew each time where the rows are a stream.

    Args:
        rows: of a split.
        make: from a row's number and the row to its examples.
        where: the rows' file, for messages.
    """
    if isinstance(rows, StreamOf) and rows.stream is not None:
        from experiments.stored_data.streamed import StreamedExamples

        found = StreamedExamples(rows, make, rows.stream)
        log.info("%s: %d training examples are streamed", where, len(found))
        return found
    return held(example for number, row in enumerate(rows) for example in make(number, row))


def held(found: Iterable[T]) -> Sequence[T]:
    """Examples as a list, or on the disk where they are too many.

    One of a task of the user's own, that is of no kind of ours, stays in memory.
    """
    most = limit()
    if most is None:
        return list(found)
    iterator = iter(found)
    first: list[Any] = list(itertools.islice(iterator, most + 1))
    if len(first) <= most:
        return first
    from experiments.stored_data.examples import StoredExamples

    every = itertools.chain(first, iterator)
    return StoredExamples.write(every) if StoredExamples.takes(first[0]) else list(every)
