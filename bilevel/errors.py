"""Define the exception whose message is meant for the person at the keyboard, and its phrases."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

__all__ = ["StorageError", "UserError", "listed", "nearest", "printable"]

# Of C0 (but for tab and line feed), C1, separators of lines, and changes of the writing direction.
CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


class UserError(ValueError):
    """Bad input, told in one sentence: what is wrong, where, and what is allowed instead.

    The command-line programs print the message without a traceback and exit with status 2.
    """


class StorageError(UserError):
    """A file could not be written: the disk is full, read-only or somebody else's."""


def listed(names: Iterable[Any]) -> str:
    """``a, b, c``, or ``nothing`` when there is none."""
    return ", ".join(str(name) for name in names) or "nothing"


def nearest(name: str, names: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the closest of ``names``, else an empty string."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def printable(text: str) -> str:
    """A text as a terminal may show it: no codes that move its cursor or turn its letters around.

    Line breaks and tabs stay; other control characters become ``\\x1b`` and the like.
    """
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
