"""Force files to the disk, and say in a sentence what it refused, which is no defect."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from bilevel.errors import StorageError

__all__ = ["check_writable", "refusal", "sync", "told_when_full"]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What file systems say (of networks, or of a container's host) that cannot sync a folder.
NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP)
# A file that is not there is not among them: that may be a defect.
REFUSALS = {
    *FULL,
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
}


def refusal(error: BaseException) -> str | None:
    """What the disk refused, in a few words; None if the error is of another kind."""
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, SafetensorError):  # its writer is no Python code and tells it in words
        found = re.search(r"os error (\d+)", str(error))
        number = int(found[1]) if found else None
    if number not in REFUSALS:
        return None
    reason = os.strerror(number)
    return f"{reason}, free some space" if number in FULL else reason


def check_writable(folder: Path, option: str) -> None:
    """Try whether a folder, which need not be there, can be made and written to; nothing is left.

    Permissions do not tell: not of ``/proc``, nor of another machine's disk, and to root they allow
    everything.

    Args:
        folder: which.
        option: the one that names it, ``hydra.run.dir``.

    Raises:
        StorageError: it cannot, with why.
    """
    place = folder.absolute()
    there = next(part for part in (place, *place.parents) if os.path.lexists(part))
    try:
        if there == place:
            tempfile.TemporaryFile(dir=there).close()
        else:
            os.rmdir(tempfile.mkdtemp(dir=there))
    except OSError as error:  # of any kind: it is what was asked
        raise StorageError(
            f"{option}={folder}: {there} cannot be written to ({error.strerror}), name another "
            "folder"
        ) from error


@contextmanager
def told_when_full(folder: Path) -> Iterator[None]:
    """A part in which files are written to ``folder``, which is made.

    Raises:
        StorageError: the disk refused, with what and where; other errors pass.
    """
    try:
        # First: where a file is in the way, the libraries write nothing and say nothing.
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # of any kind: parents are made, so none is a defect
        reason = refusal(error) or error.strerror
        raise StorageError(f"cannot write {error.filename or folder}: {reason}") from error
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = refusal(error)
        if reason is None:
            raise
        place = getattr(error, "filename", None) or folder
        raise StorageError(f"cannot write {place}: {reason}") from error


def sync(path: Path) -> None:
    """Make a file, or the names in a folder where the file system can, survive a power cut."""
    if os.name != "posix":  # only POSIX can open a folder
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # The file is whole by then, and nothing is gained by ending the run.
        if error.errno not in NO_FOLDER_SYNC or not path.is_dir():
            raise
    finally:
        os.close(handle)
