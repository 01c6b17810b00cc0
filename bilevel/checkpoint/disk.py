"""Force files to the disk, and say in a sentence that it is full, which is no defect."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from bilevel.errors import UserError

__all__ = ["sync", "told_when_full"]


@contextmanager
def told_when_full(folder: Path) -> Iterator[None]:
    """Turn a full disk into a UserError that names the folder; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"no space left on the disk while writing to {folder}") from error
    except SafetensorError as error:  # its writer is no Python code and tells the number in words
        if "os error 28" not in str(error):
            raise
        raise UserError(f"no space left on the disk while writing to {folder}") from error


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, survive a power cut."""
    if os.name != "posix":  # only POSIX can open a folder
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
