"""Say how a text file is written: its encoding, what parts its columns, and whether it quotes."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

from bilevel.errors import UserError, listed, nearest

__all__ = ["NAMES", "Dialect", "likely_delimiter"]

# Names, since most of these characters mean something to a shell or to Hydra.
NAMES = {
    "comma": ",",
    "semicolon": ";",
    "tab": "\t",
    "pipe": "|",
    "space": " ",
    "colon": ":",
}


@dataclass(frozen=True)
class Dialect:
    """How text files are written; what is None follows from the file's name.

    Attributes:
        encoding: as Python knows it; None for UTF-8. A byte-order mark is never part of the text.
        delimiter: a name of `NAMES`, or one character.
        quoting: quotation marks enclose cells that hold the delimiter or a line's end.
        prefix: of the options' names in messages.

    Raises:
        UserError: there is no such encoding, or the delimiter is no single character.
    """

    encoding: str | None = None
    delimiter: str | None = None
    quoting: bool | None = None
    prefix: str = "task."

    def __post_init__(self) -> None:
        if self.encoding is not None:
            try:
                "".encode(self.encoding)
            except LookupError as error:
                raise UserError(
                    f"{self.prefix}encoding={self.encoding}: there is no such encoding of text; "
                    "others are utf-8, latin-1, cp1252, utf-16, cp1251, gb18030, shift_jis"
                ) from error
        given = self.delimiter
        if given is not None and (len(self.character(",")) != 1 or self.character(",") in '\r\n"'):
            raise UserError(
                f"{self.prefix}delimiter={given!r}: this must be one of {listed(NAMES)}, or one "
                f"character{nearest(given, NAMES)}"
            )

    def character(self, usual: str) -> str:
        """The delimiter itself; ``usual`` where none is given."""
        if self.delimiter is None:
            return usual
        if self.delimiter == r"\t":
            return "\t"
        return NAMES.get(self.delimiter.lower(), self.delimiter)

    @property
    def codec(self) -> str:
        """The encoding for Python; UTF-8 with or without a byte-order mark."""
        if self.encoding is None or codecs.lookup(self.encoding).name == "utf-8":
            return "utf-8-sig"
        return self.encoding


def likely_delimiter(header: str, besides: str) -> str | None:
    """The name of the delimiter that seems to part a header's columns; None without one.

    Args:
        header: a line, or a name that holds several.
        besides: a character that it is not.
    """
    candidates = ("semicolon", "tab", "pipe", "comma")
    counts = {name: header.count(NAMES[name]) for name in candidates if NAMES[name] != besides}
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] else None
