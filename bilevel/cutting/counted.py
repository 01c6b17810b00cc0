"""Show a progress bar over evaluations whose number is known only roughly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

__all__ = ["Counted", "counted"]

T = TypeVar("T")


@contextmanager
def counted(
    function: Callable[..., T],
    label: str,
    total: int | None = None,
    stream: TextIO | None = None,
    unit: str = "part",
) -> Iterator[Callable[..., T]]:
    """What does the same as ``function`` and moves a bar on; shown on a terminal only.

    The bar is there from the first call on, so that what is not called shows none.

    Args:
        function: takes its time.
        label: words before the bar.
        total: calls that are expected, where that can be said; fewer will do.
        stream: where to draw, by default stderr.
        unit: what a call is.
    """
    bars: list[tqdm[Any]] = []

    def once(*arguments: Any) -> T:
        if not bars:  # disable=None: where the stream is no terminal
            shape: dict[str, Any] = {"disable": None, "dynamic_ncols": True}
            bars.append(tqdm(total=total, desc=label, file=stream, unit=unit, **shape))
        found = function(*arguments)
        bars[0].update()
        return found

    try:
        yield once
        for bar in bars:
            if bar.total is not None:
                bar.total = bar.n  # all that was needed
    finally:
        for bar in bars:
            bar.close()


class Counted(Sequence[T]):
    """A sequence that calls ``seen`` whenever one of its items is taken."""

    def __init__(self, items: Sequence[T], seen: Callable[[], object]) -> None:
        self._items, self._seen = items, seen

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: Any) -> Any:
        found = self._items[index]
        self._seen()
        return found
