"""Take a part of examples that may lie on the disk, and tell examples apart without reading them.

A list of examples holds each of them once, so an example is known by its identity. Those on the
disk are made anew each time that they are asked for: they are known by where they lie.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

__all__ = ["OnDisk", "StoredRow", "key", "keys", "taken"]

T = TypeVar("T")


@runtime_checkable
class OnDisk(Protocol):
    """A sequence whose items are read when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...

    def taken(self, indices: Any) -> Any:
        """The items of these indices, as another such sequence."""

    def keys(self) -> Iterator[tuple[Hashable, int]]:
        """What tells each item from all others, in order: its file, and its number there."""


class StoredRow(dict[str, Any]):
    """A tokenised example from the disk.

    Attributes:
        key: says where it lies.
    """

    __slots__ = ("key",)

    def __init__(self, values: dict[str, Any], key: Hashable) -> None:
        super().__init__(values)
        self.key = key


def taken(items: Sequence[T] | OnDisk, indices: Any) -> Sequence[T]:
    """The items of some indices, in their order: a list, or a view of what is on the disk.

    Args:
        items: n of them.
        indices: whole numbers in [0, n), a list or an array.
    """
    if isinstance(items, OnDisk):
        found: Sequence[T] = items.taken(indices)
        return found
    return [items[int(i)] for i in indices]


def key(item: Any) -> Hashable:
    """What tells an example from all others while their sequences live."""
    return item.key if isinstance(item, StoredRow) else id(item)


def keys(items: Sequence[Any] | OnDisk) -> Iterator[Hashable]:
    """:func:`key` of each; nothing is read from the disk."""
    return items.keys() if isinstance(items, OnDisk) else map(key, items)
