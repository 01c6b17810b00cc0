"""Decide which examples train which level, and in what order they come.

Both answers depend on nothing but seeds: `split` halves a data set for the two levels, and
`ResumableLoader` hands out batches whose order is a function of (seed, epoch), so that a position
in it is two integers and can be saved and restored.
"""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from bilevel.errors import UserError

__all__ = [
    "INDEX",
    "KnowsEpochs",
    "ResumableLoader",
    "SavesPosition",
    "drawn",
    "some",
    "split",
    "stratified_order",
]

# Length-grouped batches are formed inside runs of this many batches: wide enough that the
# lengths in a batch are alike, narrow enough that the order still changes from epoch to epoch.
GROUPED = 50

INDEX = "index"  # what a numbered loader calls the indices in its batches


@runtime_checkable
class SavesPosition(Protocol):
    """A loader that can be saved and go on from where it was."""

    def state_dict(self) -> dict[str, Any]:
        """Where it stands."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""


@runtime_checkable
class KnowsEpochs(Protocol):
    """A loader that wants to be told which epoch begins."""

    def set_epoch(self, epoch: int) -> None:
        """Epoch ``epoch`` begins."""


def stratified_order(n: int, seed: int, labels: Sequence[Hashable] | None = None) -> list[int]:
    """Return a seeded permutation of range(n) of which every prefix has the classes' proportions.

    The j-th of the n_c shuffled examples of class c gets the key (j + u_c) / n_c, with one uniform
    u_c a class, and the keys are sorted: a prefix of length m holds about m n_c / n of class c.
    Without `labels` it is a plain shuffle.
    """
    if labels is not None and len(labels) != n:
        raise UserError(f"there are {n} examples, but {len(labels)} labels")
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(n)
    classes: dict[Hashable, list[int]] = {}
    for index in shuffled.tolist():
        classes.setdefault(None if labels is None else labels[index], []).append(index)
    keys = np.empty(n)
    for members in classes.values():
        keys[members] = (np.arange(len(members)) + generator.random()) / len(members)
    # Ties are broken by the shuffle, not by the position in the file.
    return shuffled[np.argsort(keys[shuffled], kind="stable")].tolist()


def split(
    n: int, fraction: float, seed: int, labels: Sequence[Hashable] | None = None
) -> tuple[list[int], list[int]]:
    """Split range(n) into two disjoint, sorted index lists of about `fraction` n and the rest.

    Seeded; stratified when `labels` (n of them) are given.

    Raises:
        UserError: `fraction` is not inside (0, 1), or one part would be empty.
    """
    if not 0.0 < fraction < 1.0:
        raise UserError(f"the split fraction must lie between 0 and 1 (exclusive), not {fraction}")
    size = round(n * fraction)
    if size == 0 or size == n:
        raise UserError(
            f"splitting {n} examples at {fraction} leaves one part empty: "
            "use more examples or another fraction"
        )
    order = stratified_order(n, seed, labels)
    return sorted(order[:size]), sorted(order[size:])


def some(count: int, limit: int | None) -> list[int]:
    """Indices of a fixed random choice of ``limit`` among ``count``, in order; all without one."""
    if limit is None or count <= limit:
        return list(range(count))
    return sorted(np.random.default_rng(0).choice(count, limit, replace=False).tolist())


class ResumableLoader:
    """Batches of a data set, epoch by epoch, from a position that can be saved and restored.

    `iter(loader)` yields the rest of the current epoch. The position belongs to the loader, not to
    the iterator, and is read at every step: a state loaded after `iter()` is honoured.

    Args:
        dataset: anything with `len` and integer indexing.
        batch_size: examples in a batch, over all ranks together.
        collate: makes a batch out of a list of examples.
        seed: with the epoch's number, decides the order.
        shuffle: a new order each epoch; otherwise the data set's own (or, with `lengths`, longest
            first).
        drop_last: leave out an incomplete last batch; which examples are left out changes with the
            epoch's shuffle.
        lengths: one length for each example of `dataset`; then batches hold examples of like
            length, and the batches are shuffled.
        indices: use only these examples.
        rank: this process's number; it gets every world_size-th example of each batch, so that
            the processes together see the batches of a single one. Shares may differ by one
            example, which their weights in the loss make good (:mod:`bilevel.micro_batches`).
        world_size: number of processes.
        numbered: put a tensor ``index`` (n,) into every batch, the data set's index of each of its
            examples: what belongs to an example (its weight) is then found again wherever the batch
            is, replayed and rolled back too. The batch must be a mapping.
        weights: one for each example of `dataset`, 0 or more; then an epoch, which has as many
            batches as ever, holds an example as often as its share of the weights says: the number
            of batches' places times the share, rounded up or down at random (systematic
            resampling). Only with `shuffle`.

    Attributes:
        epoch: completed epochs.
        position: batches of the current epoch already handed out.
        last_indices: data set indices of the latest batch (this rank's part), or None.

    Raises:
        UserError: fewer examples than a batch with `drop_last`; no examples; a batch with fewer
            examples than processes; weights of which none is above 0.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        collate: Callable[[list[Any]], Any],
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
        lengths: Sequence[int] | None = None,
        indices: Sequence[int] | None = None,
        rank: int = 0,
        world_size: int = 1,
        numbered: bool = False,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.collate = collate
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.lengths = None if lengths is None else np.asarray(lengths)
        self.indices = np.arange(len(dataset)) if indices is None else np.asarray(indices, int)
        self.rank = rank
        self.world_size = world_size
        self.numbered = numbered
        self.weights = None if weights is None else np.asarray(weights, float)
        self._check()
        self.epoch = 0
        self.position = 0
        self.last_indices: list[int] | None = None
        self._plan: tuple[int, list[np.ndarray]] | None = None

    def _check(self) -> None:
        size = len(self.indices)
        if size == 0:
            raise UserError("the data set is empty")
        if self.batch_size < 1:
            raise UserError(f"the batch size must be at least 1, not {self.batch_size}")
        if self.drop_last and size < self.batch_size:
            raise UserError(
                f"the data set has {size} examples, fewer than one batch of {self.batch_size}: "
                "use a smaller batch size or more data"
            )
        if self.lengths is not None and len(self.lengths) != len(self.dataset):
            raise UserError(
                f"there are {len(self.dataset)} examples, but {len(self.lengths)} lengths"
            )
        if self.weights is not None:
            if len(self.weights) != len(self.dataset):
                raise UserError(
                    f"there are {len(self.dataset)} examples, but {len(self.weights)} weights"
                )
            here = self.weights[self.indices]
            if not (np.isfinite(here).all() and (here >= 0).all() and here.any() and self.shuffle):
                raise UserError(
                    "weights to draw examples by must be numbers from 0, one of them above 0, and "
                    "need shuffle"
                )
        last = self.batch_size if self.drop_last else size % self.batch_size or self.batch_size
        if (least := min(self.batch_size, last)) < self.world_size:
            raise UserError(
                f"{self.world_size} processes cannot share a batch of {least}: "
                "each needs an example of every batch, so start fewer or use a larger batch size"
            )

    def __len__(self) -> int:
        """Batches in an epoch."""
        rounded = math.floor if self.drop_last else math.ceil
        return rounded(len(self.indices) / self.batch_size)

    @property
    def seen(self) -> int:
        """Examples handed out so far, to all processes, repetitions counted."""
        epoch = len(self) * self.batch_size if self.drop_last else len(self.indices)
        begun = self._batches()[: self.position] if self.position else []
        return self.epoch * epoch + sum(map(len, begun))

    def __iter__(self) -> Iterator[Any]:
        while True:
            batch = self._batch()[self.rank :: self.world_size].tolist()
            self.last_indices = batch
            self.position += 1
            # The epoch turns over as its last batch is handed out, not when the next is asked for,
            # so that a state saved in between starts a restored loader on a non-empty epoch.
            finished = self.position == len(self)
            if finished:
                self.epoch, self.position = self.epoch + 1, 0
            made = self.collate(self._fetched(batch))
            if self.numbered:
                import torch  # which a mistake in the words does not wait for

                made[INDEX] = torch.tensor(batch)
            yield made
            if finished:
                return

    def _fetched(self, batch: list[int]) -> list[Any]:
        """Return the examples of a batch, whose position is the one before the present one."""
        return [self.dataset[index] for index in batch]

    def _batch(self) -> np.ndarray:
        """Return the data set indices of the batch at the present position, of all ranks."""
        return self._batches()[self.position]

    def _batches(self) -> list[np.ndarray]:
        """Return the current epoch's batches, as arrays of data set indices."""
        if self._plan is None or self._plan[0] != self.epoch:
            self._plan = (self.epoch, self._order(self.epoch))
        return self._plan[1]

    def _order(self, epoch: int) -> list[np.ndarray]:
        generator = np.random.default_rng((self.seed, epoch))
        order = self._shuffled(generator) if self.shuffle else self.indices
        if self.weights is not None:
            chosen = drawn(order, self.weights[order], len(order), generator)
            order = generator.permutation(chosen)
        if self.drop_last:
            # Before the sorting, or it would always be the shortest examples that are dropped.
            order = order[: len(self) * self.batch_size]
        if self.lengths is not None:
            run = GROUPED * self.batch_size if self.shuffle else len(order)
            order = np.concatenate(
                [self._longest_first(order[i : i + run]) for i in range(0, len(order), run)]
            )
        batches = [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        if self.lengths is not None and self.shuffle:
            batches = [batches[i] for i in generator.permutation(len(batches))]
        return batches

    def _shuffled(self, generator: np.random.Generator) -> np.ndarray:
        """Return the indices in a random order."""
        return generator.permutation(self.indices)

    def _longest_first(self, indices: np.ndarray) -> np.ndarray:
        assert self.lengths is not None
        return indices[np.argsort(-self.lengths[indices], kind="stable")]

    def shard(self, rank: int, world_size: int) -> None:
        """Hand out only this rank's part of every batch from now on.

        Raises:
            UserError: a batch has fewer examples than there are processes.
        """
        self.rank, self.world_size = rank, world_size
        self._check()

    def state_dict(self) -> dict[str, int]:
        """Return the position, and what it is a position in."""
        return {
            "epoch": self.epoch,
            "position": self.position,
            "seed": self.seed,
            "size": len(self.indices),
            "batch_size": self.batch_size,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a saved position.

        Raises:
            UserError: the state is of another data order (seed, size or batch size differ).
        """
        mine = self.state_dict()
        for key in ("seed", "size", "batch_size"):
            if state[key] != mine[key]:
                raise UserError(
                    f"the saved data position is for {key}={state[key]}, this run has {mine[key]}"
                )
        self.epoch, self.position = state["epoch"], state["position"]
        self.last_indices = None


def drawn(
    items: np.ndarray, weights: np.ndarray, count: int, generator: np.random.Generator
) -> np.ndarray:
    """``count`` items, each count w / sum(w) times, rounded up or down at random.

    Systematic resampling: points at equal distances fall into intervals as long as the weights.

    Args:
        items: (n,), in a random order unless neighbours may stand for each other.
        weights: (n,), 0 or more, one above 0.
        count: how many are wanted; an item may come several times.
        generator: of the points' place.
    """
    ends = np.cumsum(weights / weights.max())  # whose sum is finite
    points = (np.arange(count) + generator.random()) * (ends[-1] / count)
    # An item without weight has no width; rounding must not end beyond the last one with some.
    last = int(np.flatnonzero(weights)[-1])
    return items[np.minimum(np.searchsorted(ends, points, side="right"), last)]
