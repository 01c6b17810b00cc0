"""Keep what was made of data in a folder that runs and processes share, made once.

An entry is an Arrow file and a JSON file beside it, which is written last: its number of rows, its
checksum, and what was said while it was made. Whoever makes one holds its lock, so that others wait
and find it; it is renamed into its place when it is whole. What is damaged, or not of this program,
is made again. Nothing in an entry is ever run: it holds numbers alone.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bilevel.checkpoint.disk import check_writable, told_when_full
from bilevel.errors import StorageError, UserError
from bilevel.reading import json_object
from experiments.cli.writing import beside, write_atomically
from experiments.stored_data.columns import ArrowColumns

__all__ = ["default_folder", "entry", "key_of"]

log = logging.getLogger(__name__)

NAME = "bilevel-finetuning"
FORMAT = 1  # of the files; another one is made again
DIGITS = 32  # of a key's checksum in a file's name
PIECE = 1 << 20  # bytes

Make = Callable[[Path], list[str]]


def default_folder() -> Path:
    """``bilevel-finetuning`` in ``$XDG_CACHE_HOME``, which is ``~/.cache`` unless it is set."""
    place = os.environ.get("XDG_CACHE_HOME")
    return (Path(place) if place else Path.home() / ".cache") / NAME


def key_of(parts: Mapping[str, Any]) -> str:
    """The name of the entry of what ``parts`` (plain data) say all about."""
    written = json.dumps({"format": FORMAT, **parts}, sort_keys=True)
    return hashlib.sha256(written.encode()).hexdigest()[:DIGITS]


def entry(folder: Path, name: str, make: Make) -> tuple[ArrowColumns, list[str], bool]:
    """The columns of an entry, which is made where it is not there.

    Args:
        folder: of the cache.
        name: of the entry.
        make: writes its Arrow file to a path, and returns what was said meanwhile.

    Returns:
        The columns, what was said while they were made, and whether that was now.

    Raises:
        StorageError: the folder cannot be written.
    """
    path = folder / f"{name}.arrow"
    with _named_option(), told_when_full(folder), _locked(folder / f"{name}.lock", path):
        found = _read(path)
        if found is not None:
            log.info("tokens: %s", path)
            return *found, False
        aside = beside(path, ".tmp")
        try:
            said = make(aside)
            facts = {"format": FORMAT, "sha256": _checksum(aside), "said": said}
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        write_atomically(_facts(path), json.dumps(facts))
        size = path.stat().st_size / 2**20
        log.info("tokens: kept in %s (%.0f MiB), for other runs too", path, size)
        return ArrowColumns(path), said, True


@contextmanager
def _named_option() -> Iterator[None]:
    """What cannot be written is told with the option that takes another folder."""
    try:
        yield
    except StorageError as error:
        raise StorageError(
            f"{error} (tokens are kept there: engine.cache_dir=DIR takes another folder, and "
            "engine.cache_from=null keeps them in memory)"
        ) from error


def _locked(path: Path, wanted: Path) -> FileLock:
    check_writable(path.parent, "engine.cache_dir")  # a lock that cannot be made is waited for
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("tokens: another process makes %s", wanted)
        lock.acquire()
    lock.release()
    return lock


def _facts(path: Path) -> Path:
    return path.with_suffix(".json")


def _read(path: Path) -> tuple[ArrowColumns, list[str]] | None:
    """An entry that is there and whole; else None."""
    if not (path.is_file() and _facts(path).is_file()):
        return None
    try:
        facts = json_object(_facts(path), needs=["format", "sha256", "said"])
        said = facts["said"]
        known = isinstance(said, list) and all(isinstance(line, str) for line in said)
        if facts["format"] == FORMAT and known and facts["sha256"] == _checksum(path):
            return ArrowColumns(path), said
    except UserError as error:
        log.debug("%s", error)
    log.warning("%s is damaged or of another program, and is made again", path)
    return None


def _checksum(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            found.update(piece)
    return found.hexdigest()
