"""Write a file whole or not at all, so that nobody ever reads half of one."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

import psutil

from bilevel.checkpoint.disk import refusal, sync
from bilevel.errors import StorageError

__all__ = ["beside", "clean", "write_atomically"]

# .NAME.PROCESS.tmp, of this module, of checkpoints and of figures.
ASIDE = re.compile(r"\..+\.\d+\.tmp(\.\w+)?")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file that afterwards holds all of ``content``, or what it held before.

    Raises:
        StorageError: the disk is full, or the folder not writable.
    """
    aside = beside(path, ".tmp")
    try:
        try:
            with open(aside, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        sync(path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {refusal(error) or error}") from error


def beside(path: Path, ending: str) -> Path:
    """Where to write a file before it is renamed; what killed writers of it left there goes.

    Args:
        path: the file.
        ending: of the name, ``.tmp`` or ``.tmp.png``.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{ending}"):
        writer = left.name.removeprefix(f".{path.name}.").removesuffix(ending)
        if writer.isdecimal() and not _lives(int(writer)):
            left.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}{ending}")


def _lives(process: int) -> bool:
    try:
        return psutil.pid_exists(process)
    except OverflowError:  # no such number is a process's
        return False


def clean(folder: Path) -> None:
    """Remove what killed writers have left in a run's folder, which must be ours alone now.

    Args:
        folder: the run's; those of its checkpoints and figures are looked into too.
    """
    for place in (folder, folder / "checkpoints", folder / "figures"):
        for path in place.glob(".*.tmp*") if place.is_dir() else ():
            if ASIDE.fullmatch(path.name) and not path.is_dir():
                path.unlink()
