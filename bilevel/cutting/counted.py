"""Show a progress bar over evaluations whose number is known only roughly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO, TypeVar

from tqdm import tqdm

__all__ = ["counted"]

T = TypeVar("T")


@contextmanager
def counted(
    function: Callable[[], T], label: str, total: int | None = None, stream: TextIO | None = None
) -> Iterator[Callable[[], T]]:
    """What does the same as ``function`` and moves a bar on; shown on a terminal only.

    Args:
        function: takes its time.
        label: words before the bar.
        total: calls that are expected, where that can be said; fewer will do.
        stream: where to draw, by default stderr.
    """
    # None: disabled where the stream is no terminal.
    bar = tqdm(total=total, desc=label, file=stream, disable=None, dynamic_ncols=True, unit="part")

    def once() -> T:
        found = function()
        bar.update()
        return found

    try:
        yield once
        if bar.total is not None:
            bar.total = bar.n  # all that was needed
    finally:
        bar.close()
