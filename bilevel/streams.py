"""Hand out batches of a data set that can only be read from its beginning to its end.

The order of an epoch is that of a shuffle buffer: a random one of the next B examples is taken out,
and the next one read takes its place. As in :class:`bilevel.ResumableLoader` it follows from (seed,
epoch) alone, so a position is two integers. To go on from one, the data are read again from their
beginning, and what was handed out is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from bilevel.data import ResumableLoader
from bilevel.errors import UserError

__all__ = ["Streamed", "StreamedLoader", "buffer_order"]


@runtime_checkable
class Streamed(Protocol):
    """Examples that come one after the other.

    Attributes:
        buffer: how many of them are shuffled with one another.
    """

    buffer: int

    def __len__(self) -> int: ...

    def read(self) -> Iterator[Any]:
        """Begin to read them, as they are in their source."""

    def prepared(self, found: list[Any]) -> list[Any]:
        """What becomes of some that were read: tokenised examples."""


def buffer_order(items: np.ndarray, buffer: int, generator: np.random.Generator) -> np.ndarray:
    """The order in which a shuffle buffer hands items out; no item comes before its time.

    Args:
        items: (n,), in the order in which they are read.
        buffer: B; place i of the result is one of the first i + B items.
        generator: decides which.
    """
    size = min(buffer, len(items))
    if size == len(items):
        return generator.permutation(items)
    held = items[:size].tolist()
    order = np.empty_like(items)
    slots = generator.integers(size, size=len(items) - size)
    for place, (slot, item) in enumerate(zip(slots.tolist(), items[size:].tolist(), strict=True)):
        order[place], held[slot] = held[slot], item
    order[len(items) - size :] = generator.permutation(held)
    return order


class StreamedLoader(ResumableLoader):
    """A :class:`bilevel.ResumableLoader` of a stream; arguments as its own.

    At most ``buffer`` examples that were read wait to be handed out.

    Raises:
        UserError: batches of like length, or examples drawn by weights, are asked for.
    """

    def __init__(
        self, dataset: Streamed, batch_size: int, collate: Callable[[list[Any]], Any], **more: Any
    ) -> None:
        self._reader: Iterator[Any] | None = None
        self._next: tuple[int, int] | None = None  # where the reader stands: epoch, position
        super().__init__(dataset, batch_size, collate, **more)
        for name in ("lengths", "weights"):
            if getattr(self, name) is not None:
                raise UserError(f"a stream cannot be ordered by {name}: they are not known")

    def _shuffled(self, generator: np.random.Generator) -> np.ndarray:
        return buffer_order(self.indices, self.dataset.buffer, generator)

    def shard(self, rank: int, world_size: int) -> None:
        """See :meth:`bilevel.ResumableLoader.shard`."""
        super().shard(rank, world_size)
        self._reader = None

    def load_state_dict(self, state: dict[str, int]) -> None:
        """See :meth:`bilevel.ResumableLoader.load_state_dict`."""
        super().load_state_dict(state)
        self._reader = None

    def _fetched(self, batch: list[int]) -> list[Any]:
        # The position has moved on: the batch is the one before it, perhaps an epoch's last.
        ended = self.position == 0
        here = (self.epoch - ended, len(self) - 1 if ended else self.position - 1)
        if self._reader is None or self._next != here:
            plan = self._batches_of(here[0])[here[1] :]
            own = [part[self.rank :: self.world_size] for part in plan]
            self._reader = in_order(self.dataset.read(), np.concatenate(own), len(self.dataset))
        found = [next(self._reader) for _ in batch]
        self._next = None if ended else (self.epoch, self.position)
        return self.dataset.prepared(found)

    def _batches_of(self, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch, which may have just been left."""
        return self._batches() if epoch == self.epoch else self._order(epoch)


def in_order(source: Iterable[Any], order: Sequence[int] | np.ndarray, size: int) -> Iterator[Any]:
    """Items of a source by their numbers in it, which is read once.

    Those that are read before their turn wait in memory.

    Args:
        source: what is read.
        order: the numbers, each once.
        size: of the source.

    Raises:
        UserError: the source ends too soon.
    """
    wanted = np.zeros(size, dtype=bool)
    wanted[np.asarray(order, dtype=np.int64)] = True
    waiting: dict[int, Any] = {}
    coming = enumerate(source)
    for number in np.asarray(order).tolist():
        while number not in waiting:
            found = next(coming, None)
            if found is None:
                raise UserError(f"a source that is read again has fewer than its {size} examples")
            place, item = found
            if place < size and wanted[place]:
                waiting[place] = item
        yield waiting.pop(number)
