"""Find the example that a tokenised one was made of."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

from bilevel.views import OnDisk, keys

__all__ = ["MadeOf"]


class MadeOf(Mapping[Hashable, Any]):
    """The example of each tokenised one, by the key of the latter (:func:`bilevel.views.key`).

    Of what is on the disk nothing is read until it is asked for.

    Args:
        pairs: tokenised examples, and as many examples in the same order.
    """

    def __init__(self, *pairs: tuple[Sequence[Any], Sequence[Any]]) -> None:
        self._known: dict[Hashable, Any] = {}
        self._stored: dict[Hashable, Sequence[Any]] = {}
        for rows, examples in pairs:
            if isinstance(rows, OnDisk):  # all rows of one file
                file, _ = next(rows.keys())
                self._stored[file] = examples
            else:
                self._known |= zip(keys(rows), examples, strict=True)

    def __getitem__(self, key: Hashable) -> Any:
        if isinstance(key, tuple):
            file, number = key
            return self._stored[file][number]
        return self._known[key]

    def __iter__(self) -> Iterator[Hashable]:
        yield from self._known
        for file, examples in self._stored.items():
            yield from ((file, number) for number in range(len(examples)))

    def __len__(self) -> int:
        return len(self._known) + sum(map(len, self._stored.values()))
