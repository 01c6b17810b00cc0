"""Write a file whole or not at all, so that nobody ever reads half of one."""

from __future__ import annotations

import os
from pathlib import Path

from bilevel.checkpoint.disk import refusal
from bilevel.errors import StorageError

__all__ = ["write_atomically"]


def write_atomically(path: Path, text: str) -> None:
    """Write a file that afterwards holds all of ``text``, or what it held before.

    Raises:
        StorageError: the disk is full, or the folder not writable.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with open(aside, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {refusal(error) or error}") from error
