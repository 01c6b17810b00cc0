"""Say what is odd in texts once, not for each window of a long file."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["once_said"]

NUMBER = re.compile(r"\d[\d,.]*")
# What speaks of texts while they are read and tokenised.
REMARKS = (
    "experiments.tasks.kinds.remarks",
    "experiments.tasks.kinds.tags",
    "experiments.tasks.reading.rows",
)


@contextmanager
def once_said() -> Iterator[None]:
    """In here a remark on the texts is logged for the first window that it is true of, and once."""
    seen: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        # "%s" is the whole of many messages; the numbers in them are other ones in each window.
        said = NUMBER.sub("#", record.getMessage()) if record.msg == "%s" else str(record.msg)
        new = said not in seen
        seen.add(said)
        return new

    loggers = [logging.getLogger(name) for name in REMARKS]
    for logger in loggers:
        logger.addFilter(is_new)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_new)
