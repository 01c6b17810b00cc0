"""Make a file that goes as soon as this process has done with it."""

from __future__ import annotations

import atexit
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bilevel.checkpoint.disk import told_when_full

__all__ = ["temporary"]


@contextmanager
def temporary() -> Iterator[Path]:
    """A file to write and to map into memory in here; what is mapped stays while it is read.

    It lies where ``TMPDIR`` says.

    Raises:
        StorageError: the disk is full.
    """
    handle, name = tempfile.mkstemp(prefix="bilevel-finetuning-", suffix=".arrow")
    os.close(handle)
    path = Path(name)
    try:
        with told_when_full(path.parent):
            yield path
    finally:
        try:
            path.unlink()
        except PermissionError:  # Windows keeps a mapped file
            atexit.register(path.unlink, missing_ok=True)
