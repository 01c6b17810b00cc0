"""Write a checksum of each file beside the files of a folder, and check them when they are read.

The file is that of the program ``sha256sum``, which checks it too: ``sha256sum -c SHA256SUMS``.
A model card is left out: its licence and what else only they know is for people to write.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from bilevel.checkpoint.disk import sync, told_when_full
from bilevel.errors import UserError
from bilevel.reading import read_text

__all__ = ["CARD", "SUMS", "check_sums", "seal", "summed"]

CARD = "README.md"
SUMS = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64}) [ *](?!\.\.?/)([^/\0]+)")


def seal(folder: Path) -> None:
    """Write the checksums of a folder's files, and force all of it to the disk.

    Raises:
        UserError: the disk is full.
    """
    (folder / SUMS).unlink(missing_ok=True)
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != CARD)
    text = "".join(f"{_digest(path)}  {path.name}\n" for path in files)
    with told_when_full(folder):
        (folder / SUMS).write_text(text, encoding="utf-8")
        for path in (*files, folder / SUMS, folder, folder.parent):
            sync(path)


def summed(folder: Path) -> set[str]:
    """The files of a folder that its checksums name; none without, and none of a damaged file."""
    path = folder / SUMS
    if path.is_symlink() or not path.is_file():
        return set()
    found = [LINE.fullmatch(line) for line in read_text(path).splitlines()]
    return {line[2] for line in found if line is not None}


def check_sums(folder: Path) -> None:
    """Hold a folder's files against their checksums; a folder without them is an older one's.

    Raises:
        UserError: a file is another one than was written, or missing.
    """
    path = folder / SUMS
    if not os.path.lexists(path):
        return
    for line in read_text(path).splitlines():
        found = LINE.fullmatch(line)
        if found is None:
            raise UserError(f"{path} is damaged: {line[:80]!r} is no checksum of a file")
        file = folder / found[2]
        if not file.is_file():
            raise UserError(f"{file} is missing, which {path} names")
        if _digest(file) != found[1]:
            raise UserError(
                f"{file} is damaged: it is not what was written, says {path} (remove that file if "
                "you have changed it yourself)"
            )


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
