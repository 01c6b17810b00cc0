"""Write log lines so that no name in a message passes for another line or paints the terminal."""

from __future__ import annotations

import logging

from bilevel.errors import printable

__all__ = ["Formatter"]


class Formatter(logging.Formatter):
    """Shows control characters of a message as ``\\x1b``, and indents its further lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        """The message's part of the line; a traceback is apart."""
        return printable(super().formatMessage(record)).replace("\n", "\n    ")
