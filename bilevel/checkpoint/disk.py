"""Say in a sentence that a disk is full, which is no defect."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from bilevel.errors import UserError

__all__ = ["told_when_full"]


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
