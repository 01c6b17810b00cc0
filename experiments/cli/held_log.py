"""Hold back what is logged before there is a log, and say it once there is one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["HeldLog"]


class HeldLog(logging.Handler):
    """Keeps records of level INFO and above.

    Attributes:
        records: in order.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.records.append(record)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Nothing that is logged inside reaches another handler of the root."""
        root = logging.getLogger()
        before = root.handlers, root.level
        root.handlers = [self]
        root.setLevel(logging.INFO)
        try:
            yield
        finally:
            root.handlers, level = before
            root.setLevel(level)

    def say(self) -> None:
        """Hand everything to the handlers that there are now."""
        for record in self.records:
            logging.getLogger(record.name).handle(record)
        self.records.clear()
