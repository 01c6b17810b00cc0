"""Remember what the program warns of, for result.json."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["heard"]

OURS = ("bilevel", "experiments", "problems")


class _Listener(logging.Handler):
    def __init__(self, found: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.found = found

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.partition(".")[0] in OURS:
            self.found.append(record.getMessage())


@contextmanager
def heard() -> Iterator[list[str]]:
    """Collect the project's own warnings."""
    found: list[str] = []
    listener = _Listener(found)
    root = logging.getLogger()
    root.addHandler(listener)
    try:
        yield found
    finally:
        root.removeHandler(listener)
