"""Read a text file: unpack it, decode it, and say which encoding it seems to have instead."""

from __future__ import annotations

import codecs
import gzip
import io
import logging
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from bilevel.errors import UserError
from experiments.tasks.reading.dialect import Dialect

__all__ = ["lines_in", "lines_of", "read_text", "text_pieces"]

log = logging.getLogger(__name__)

MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# What a file that is no text begins with.
OTHERS = {
    b"\x1f\x8b": "a gzip file (its name must end in .gz)",
    b"PK\x03\x04": "a zip file or a spreadsheet (save it as .csv)",
    b"PAR1": "a Parquet file (its name must end in .parquet)",
}
LINE_ENDS = re.compile(r"\r\n|\r|\n")  # not splitlines: a text may hold what it takes for one
FEW = 8  # letters, of which nothing can be told
OFTEN = 0.2  # share of zero bytes in text of two bytes a character
LOOKED_AT = 1 << 16  # bytes, for a guess
# Text packs to a third or a tenth; zeros to a thousandth.
DENSEST = 100
LARGE = 1 << 28  # bytes that may be packed as densely as they like
PIECE = 1 << 20  # bytes


def read_text(path: Path, dialect: Dialect | None = None) -> str:
    """The text of a file; a name that ends in .gz is unpacked first.

    Line ends are as they stand in the file, and a byte-order mark is left out.

    Raises:
        UserError: the file cannot be read or is of another encoding, which the message guesses.
    """
    return "".join(text_pieces(path, dialect, whole=True))


def text_pieces(
    path: Path,
    dialect: Dialect | None = None,
    *,
    whole: bool = False,
    name: Path | None = None,
    again: bool = False,
) -> Iterator[str]:
    """The same piece by piece, in memory that does not grow with the file.

    Args:
        path: the file.
        dialect: how it is written.
        whole: in one piece.
        name: what messages call it, where that is not its path.
        again: what is odd in it has been said.

    Raises:
        UserError: as :func:`read_text`, where the reading comes to what is wrong.
    """
    dialect, place = dialect or Dialect(), name or path
    decoder = codecs.getincrementaldecoder(dialect.codec)()
    read, lines, head = 0, 0, b""
    try:
        packed = path.name.lower().endswith(".gz")
        with path.open("rb") as plain:
            file: IO[bytes] | gzip.GzipFile = gzip.GzipFile(fileobj=plain) if packed else plain
            most = max(LARGE, DENSEST * os.fstat(plain.fileno()).st_size) if packed else None
            while True:
                limit = -1 if most is None else most + 1 - read
                data = file.read(limit if whole else PIECE if read else max(PIECE, LOOKED_AT))
                first = not read
                read += len(data)
                if most is not None and read > most:
                    raise UserError(_too_dense(place, os.fstat(plain.fileno()).st_size, most))
                if first:
                    head = data
                    _refuse_others(place, head, dialect)
                last = not data or whole
                try:
                    text = decoder.decode(data, last)
                except UnicodeError as error:
                    raise UserError(_undecodable(place, data, error, dialect, lines)) from error
                if first:
                    text = text.removeprefix("\ufeff")
                    if dialect.codec != "utf-8-sig" and not again:
                        _warn_of_utf8(place, head, dialect)
                if "\0" in text:
                    raise UserError(_zero(place, text, head, dialect, lines))
                lines += text.count("\n")
                if text:
                    yield text
                if last:
                    return
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {place}: {reason}") from error


def _refuse_others(path: Path, data: bytes, dialect: Dialect) -> None:
    """Refuse what is no text, or of an encoding that its first bytes name."""
    for start, kind in OTHERS.items():
        if data.startswith(start):
            raise UserError(f"{path} is no text but {kind}")
    encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), None)
    if dialect.encoding is None and encoding is not None:
        raise UserError(
            f"{path} is not UTF-8 but {encoding.upper()}: set {dialect.prefix}encoding={encoding}"
        )


def _too_dense(path: Path, packed: int, most: int) -> str:
    """Of a gzip file that was made to fill the memory or the disk."""
    return (
        f"{path} has {packed:,} bytes and unpacks to more than {most:,}, as no text does: "
        "unpack it yourself if it is meant so"
    )


def lines_in(pieces: Iterable[str], ends: str | None = None) -> Iterator[str]:
    """The lines of a text that comes in pieces, with their ends.

    Args:
        pieces: which follow one another.
        ends: a line ends in it; None for a line feed, a carriage return, or both together.
    """
    newline, rest = "" if ends is None else ends, ""
    for piece in pieces:
        held = ""  # the last may go on in the next piece, and a carriage return be half an end
        for line in io.StringIO(rest + piece, newline=newline):
            if held:
                yield held
            held = line
        rest = held
    yield from io.StringIO(rest, newline=newline)


def lines_of(text: str) -> list[str]:
    """The lines of a text without their ends; at least one, which may be empty."""
    lines = LINE_ENDS.split(text)
    return lines if lines[-1] else lines[:-1] or lines


def _undecodable(
    path: Path, data: bytes, error: UnicodeError, dialect: Dialect, before: int
) -> str:
    if isinstance(error, UnicodeDecodeError):  # with what was left over from the piece before
        data = error.object
    start = getattr(error, "start", 0)
    line = before + data.count(b"\n", 0, start) + 1
    byte = f"byte 0x{data[start]:02x} in line {line}" if start < len(data) else "its end"
    if dialect.encoding is not None:
        name = f"{dialect.prefix}encoding={dialect.encoding}"
        return f"{path} cannot be read with {name} ({byte}): that is not its encoding"
    guess = _guess(data)
    if guess is None:
        return (
            f"{path} is not UTF-8 text ({byte}), nor of a Western European encoding: set "
            f"{dialect.prefix}encoding to the one that it was saved with (cp1251, gb18030, "
            "shift_jis, big5, ...)"
        )
    return (
        f"{path} is not UTF-8 text ({byte}): it looks like {guess}, so set {dialect.prefix}"
        f"encoding={guess}, or the encoding that it was saved with (cp1251, gb18030, ...)"
    )


def _zero(path: Path, text: str, data: bytes, dialect: Dialect, before: int) -> str:
    line = before + text.count("\n", 0, text.index("\0")) + 1
    guess = _two_bytes(data) if dialect.encoding is None else None
    hint = f": it looks like {guess}, so set {dialect.prefix}encoding={guess}" if guess else ""
    return f"line {line} of {path} holds a NUL character, which no text does{hint}"


def _guess(data: bytes) -> str | None:
    """The likeliest encoding of what is not UTF-8: by zero bytes, else Western European or none."""
    wide = _two_bytes(data)
    if wide:
        return wide
    some = data[:LOOKED_AT]
    letters = sum(65 <= byte < 91 or 97 <= byte < 123 for byte in some)
    if sum(byte >= 0xA0 for byte in some) > max(letters, FEW):  # words of accents alone
        return None
    # Latin-1 has control characters there, Windows has quotation marks.
    return "cp1252" if any(0x80 <= byte < 0xA0 for byte in data) else "latin-1"


def _two_bytes(data: bytes) -> str | None:
    """UTF-16 without its mark: every other byte of mostly Latin text is zero."""
    some = data[:LOOKED_AT]
    for name, zeros in (("utf-16-le", some[1::2]), ("utf-16-be", some[::2])):
        if zeros.count(0) > OFTEN * len(zeros):
            return name
    return None


def _warn_of_utf8(path: Path, data: bytes, dialect: Dialect) -> None:
    """Say so where another encoding was asked for and the file can hardly be but UTF-8."""
    try:  # the last character may go on in another piece
        ascii_only = codecs.getincrementaldecoder("utf-8")().decode(data).isascii()
    except UnicodeDecodeError:
        return
    if not ascii_only:
        log.warning(
            "%s is read with %sencoding=%s as you ask, but looks like UTF-8",
            *(path, dialect.prefix, dialect.encoding),
        )
