"""Decide, while a task reads its data, whether they are held in memory or on the disk.

Within :func:`spooling` a sequence of more than so many rows or examples goes to the disk as it
comes. Everywhere else, in ``predict`` and ``evaluate`` say, all is held in memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

__all__ = ["held", "limit", "spooling"]

T = TypeVar("T")

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
