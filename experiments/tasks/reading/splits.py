"""Find a folder's data files for each split, by the names that people give them."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from bilevel.errors import UserError, listed
from experiments.tasks.reading.files import SUFFIXES

__all__ = [
    "OTHER_NAMES",
    "SplitFiles",
    "find_split",
    "named_splits",
    "no_split",
    "no_test",
    "nothing_to_hold_out",
    "own_splits",
    "scored_splits",
]

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
# Taken, and said, where a file has not the split's own name.
OTHER_NAMES = {
    "train": ("training",),
    "validation": ("dev", "valid", "val", "development"),
    "test": ("testing",),
}
SHARD = re.compile(r"(?P<name>.+)-(?P<number>\d{3,})-of-(?P<count>\d{3,})")
SHOWN = 12  # names of files in a message


class SplitFiles(tuple[Path, ...]):
    """The files of a split, in order: one, or shards."""

    __slots__ = ()

    def __str__(self) -> str:
        more = f" and {len(self) - 1} more" if len(self) > 1 else ""
        return f"{self[0]}{more}"


def find_split(
    data_dir: str | Path, split: str, suffixes: Sequence[str] = SUFFIXES
) -> SplitFiles | None:
    """Return the files of a split, e.g. DIR/train.csv, or None when there is none.

    Upper case (train.CSV), shards (train-00000-of-00002.parquet) and the usual other names (dev.csv
    for validation) are taken too.

    Args:
        data_dir: the folder.
        split: the file's name without its suffix.
        suffixes: those that are looked for.

    Raises:
        UserError: the folder does not exist, two files could be meant, or a shard is missing.
    """
    folder = _folder(data_dir)
    files = _data_files(folder, suffixes)
    for name in (split, *_others(split)):
        found = {key: paths for key, paths in files.items() if key[0] == name}
        if len(found) > 1:
            names = listed(sorted(path.name for paths in found.values() for path in paths))
            raise UserError(
                f"{folder} holds several files for the split {split!r} ({names}): keep one"
            )
        for paths in found.values():
            if name != split:
                log.info("%s is taken as the split %s", paths[0], split)
            return SplitFiles(_complete(paths, folder))
    return None


def no_split(
    data_dir: str | Path,
    split: str,
    suffixes: Sequence[str] = SUFFIXES,
    advice: str = "",
    option: str = "task.data_dir",
) -> UserError:
    """The error that a folder has no file of a split: it lists what is there.

    Args:
        data_dir: the folder.
        split: the missing one, or several in words.
        suffixes: those that are looked for.
        advice: what else could be done, if anything.
        option: the one that names the folder.
    """
    folder = _folder(data_dir)
    there = sorted(
        repr(path.name + "/" * path.is_dir())
        for path in folder.iterdir()
        if not path.name.startswith(".")
    )
    more = f" and {len(there) - SHOWN} more" if len(there) > SHOWN else ""
    kinds = listed(s for s in suffixes if not s.endswith(".gz"))
    return UserError(
        f"{option}={data_dir} has no file {split} ({kinds}; the text files also .gz): it "
        f"holds {listed(there[:SHOWN])}{more}{advice and f'; {advice}'}"
    )


def own_splits(data_dir: str, suffixes: Sequence[str] = SUFFIXES) -> dict[str, SplitFiles]:
    """The splits of a user's own data: a folder with files for them, or one single file.

    Args:
        data_dir: the folder, or the file.
        suffixes: of the files that the task reads.

    Returns:
        Split -> its files, train always; perhaps nothing else (`no_test`).

    Raises:
        UserError: there is nothing to train on.
    """
    path = Path(data_dir).expanduser()
    if path.is_file():
        if not path.name.lower().endswith(tuple(suffixes)):
            raise UserError(f"task.data_dir={path}: its name must end in one of {listed(suffixes)}")
        return {"train": SplitFiles([path])}
    found = named_splits(data_dir, suffixes) or _single(path, suffixes, "train")
    if "train" not in found:
        raise no_split(data_dir, "train", suffixes)
    _say_left_out(path, found, suffixes)
    return found


def scored_splits(
    data_dir: str | Path, suffixes: Sequence[str] = SUFFIXES
) -> dict[str, SplitFiles]:
    """The splits that there are of data to score a model on; one single file is the test.

    Raises:
        UserError: there is no such folder, or two files could be meant.
    """
    path = Path(data_dir).expanduser()
    if path.is_file() and path.name.lower().endswith(tuple(suffixes)):
        return {"test": SplitFiles([path])}
    found = named_splits(data_dir, suffixes)
    if found and "train" not in found:  # with it all is read as by `own_splits`, which says it
        _say_left_out(path, found, suffixes)
    return found or _single(path, suffixes, "test")


def no_test(data_dir: str, suffixes: Sequence[str] = SUFFIXES) -> UserError:
    """The error that a user's own data has nothing to test on; it says how to hold out a share."""
    advice = "task.holdout=0.2 makes a fifth of the training file the test set"
    if Path(data_dir).expanduser().is_file():
        return UserError(
            f"task.data_dir={data_dir} is one file, and a test set is needed: {advice}"
        )
    return no_split(data_dir, "test or validation", suffixes, advice)


def nothing_to_hold_out(share: float, test: SplitFiles) -> UserError:
    """The error that ``task.holdout`` is given beside files to test on."""
    return UserError(
        f"task.holdout={share} is for data in one single file, and {test} is there to test on: set "
        "task.holdout=null"
    )


def named_splits(data_dir: str | Path, suffixes: Sequence[str]) -> dict[str, SplitFiles]:
    """The splits whose names a folder's files have."""
    found = {split: find_split(data_dir, split, suffixes) for split in SPLITS}
    return {split: files for split, files in found.items() if files is not None}


def _say_left_out(folder: Path, found: Mapping[str, SplitFiles], suffixes: Sequence[str]) -> None:
    """Tell files whose names begin like a split's, as train-2.csv beside train.csv: not in it."""
    read = {path for files in found.values() for path in files}
    for split, files in found.items():
        alike = re.compile(rf"({'|'.join((split, *_others(split)))})([^a-z].*)?")
        others = [
            path.name
            for (stem, _), paths in _data_files(folder, suffixes).items()
            for path in paths
            if alike.fullmatch(stem) and path not in read
        ]
        if others:
            log.warning(
                "%s: the split %s is %s alone, without %s: join the files, or name each in "
                "task.sources, if they belong to it",
                *(folder, split, listed(path.name for path in files), listed(others)),
            )


def _single(folder: Path, suffixes: Sequence[str], split: str) -> dict[str, SplitFiles]:
    """A folder's only data file, whatever it is called, as a split."""
    files = list(_data_files(folder, suffixes).values())
    if len(files) != 1:
        return {}
    log.info("%s is the only data file, and is taken as the split %s", files[0][0], split)
    return {split: SplitFiles(_complete(files[0], folder))}


def _folder(data_dir: str | Path) -> Path:
    folder = Path(data_dir).expanduser()
    if folder.is_file():
        raise UserError(
            f"task.data_dir={data_dir} is a file: name the folder that holds it, with a file for "
            "each split"
        )
    if not folder.is_dir():
        raise UserError(f"task.data_dir={data_dir} is no folder: there is nothing of this name")
    return folder


def _data_files(folder: Path, suffixes: Sequence[str]) -> dict[tuple[str, str], list[Path]]:
    """Files by name and ending, shards together; names in lower case, if that is not ambiguous."""
    found: dict[tuple[str, str], list[Path]] = {}
    longest = sorted(suffixes, key=len, reverse=True)  # .csv.gz before a .gz
    for path in sorted(folder.iterdir()):
        lower = path.name.lower()
        suffix = next((suffix for suffix in longest if lower.endswith(suffix)), None)
        if suffix is None or path.name.startswith(".") or not path.is_file():
            continue
        stem = lower.removesuffix(suffix)
        shard = SHARD.fullmatch(stem)
        kind = f"{suffix}, a shard" if shard else path.name[len(stem) :]
        written = path.name[: len(stem)] if not shard else ""
        key = (shard["name"] if shard else stem, f"{written}{kind}")
        found.setdefault(key, []).append(path)
    return found


def _others(split: str) -> list[str]:
    """Other names of a split, of validation_matched say dev_matched."""
    name, mark, rest = split.partition("_")
    return [f"{other}{mark}{rest}" for other in OTHER_NAMES.get(name, ())]


def _complete(paths: list[Path], folder: Path) -> list[Path]:
    """One file, or all shards in order; raise UserError when one of them is missing."""
    shards = [SHARD.match(path.name) for path in paths]
    if not all(shards):
        return paths
    counts = {int(shard["count"]) for shard in shards if shard}
    numbers = sorted(int(shard["number"]) for shard in shards if shard)
    if len(counts) != 1 or numbers != list(range(max(counts))):
        raise UserError(
            f"{folder} holds the shards {listed(p.name for p in paths)}: these are not all of "
            f"{max(counts)}"
        )
    return paths
