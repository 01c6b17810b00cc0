"""Continue an interrupted run: find its folder, and make sure that it is this run's.

``run.resume=DIR`` takes the run's own configuration from DIR; what is given besides must not
contradict it; but what it began with may lie elsewhere by now, if it is told where, and if the run
has checksums of it. ``run.resume=auto`` takes the newest unfinished run of the configuration given.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bilevel.checkpoint.disk import check_writable
from bilevel.errors import UserError, listed
from bilevel.settings import written
from experiments.cli import places
from experiments.cli.command_line import CommandLine
from experiments.cli.messages import sentence
from experiments.config import saved_words, stored
from experiments.config.composition import compose_config, plain
from experiments.config.renamed import completed
from experiments.results.links import refuse_links
from experiments.training import checksums

__all__ = ["check_same", "exclusive", "expand"]

AUTO = "auto"
# May change between the interruption and the continuation: they do not touch the result.
FREE = ("run.", "engine.cache_", "engine.checkpoint_every", "engine.keep_checkpoints")
GROUPS = ("method", "task", "model", "hypergradient")


def expand(line: CommandLine) -> list[str]:
    """The overrides that continue the run asked for by ``run.resume``; else those given.

    Raises:
        UserError: the folder is no run's, or another run's.
    """
    wanted = line.value("run.resume")
    if wanted in (None, "null", ""):
        return line.overrides
    if wanted == AUTO:
        if line.multirun:  # each run looks into its own folder, see experiments.training.job
            return line.overrides
        found = _newest_unfinished(line)
        if found is None:
            place = line.value("hydra.run.dir")
            if place is not None and (Path(place) / "result.json").is_file():
                return line.overrides  # finished: the run says so itself
            print("run.resume=auto: no unfinished run of this configuration, starting a new one")
            return line.overrides
        folder, words = found
        return [*words, places.word("hydra.run.dir", folder)]
    if line.multirun:
        raise UserError(f"run.resume={wanted} continues one run; with -m use run.resume=auto")
    folder = Path(str(wanted))
    saved, choices = _read(folder)
    overrides = [*saved_words.usable(folder, line.overrides), *line.overrides]
    overrides = [*saved_words.by_default(folder, line.overrides), *overrides]
    # First the groups by themselves: the saved options of one method are no options of another.
    given = {group: line.value(group) for group in GROUPS if line.value(group) is not None}
    check_same(folder, {}, {}, choices, {**choices, **given})
    config = compose_config(overrides, line.config_dir)
    asked = plain(config)
    saved_words.check_trust(folder, asked, line.overrides)
    saved = stored.given_now(saved, asked)
    chosen, sums = dict(config.hydra.runtime.choices), checksums.known(folder)
    check_same(folder, saved, asked, choices, chosen, sums)
    return [*overrides, places.word("hydra.run.dir", folder)]


def check_same(
    folder: Path,
    saved: Mapping[str, Any],
    asked: Mapping[str, Any],
    saved_choices: Mapping[str, Any] | None = None,
    asked_choices: Mapping[str, Any] | None = None,
    sums: Mapping[str, str] | None = None,
) -> None:
    """Refuse another configuration than that of the run in a folder.

    Args:
        folder: the run's.
        saved: its configuration.
        asked: the other.
        saved_choices: its option of each group.
        asked_choices: the other's.
        sums: checksums of what it began with, which is to be checked by them; without, it must be
            in the same place.

    Raises:
        UserError: names every key in which the two differ.
    """
    old, new = _flat(completed(saved)), _flat(completed(asked))
    differing = []
    for group in GROUPS:
        before, now = (saved_choices or {}).get(group), (asked_choices or {}).get(group)
        if before != now:
            differing.append(f"{group} ({before} there, {now} here)")
            old = {key: v for key, v in old.items() if not key.startswith(f"{group}.")}
            new = {key: v for key, v in new.items() if not key.startswith(f"{group}.")}
    for key in sorted(old.keys() | new.keys()):
        there, here = old.get(key), new.get(key)
        if _alike(there) == _alike(here) or key.startswith(FREE):
            continue
        if not _has_sums(key, here, sums or {}):
            differing.append(f"{key} ({written(there)} there, {written(here)} here)")
    if differing:
        raise UserError(
            f"{folder} holds another run, different in {listed(differing)}: give its own values, "
            "or run.resume=DIR alone, which takes them from there (in Python, the same arguments)"
        )


def _has_sums(key: str, value: Any, sums: Mapping[str, str]) -> bool:
    """Whether checksums can tell that what an option names now is what the run began with."""
    if key == checksums.DATA:  # streams have none
        tests = sums.keys() - {"train", "validation"}
        return "train" in sums and any(map(checksums.is_split, tests))
    folder = isinstance(value, str) and Path(value).expanduser().is_dir()  # a hub id has none
    return key in checksums.MODELS and key in sums and folder


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep a run's folder to this process.

    Raises:
        UserError: another process is at work in it, or it cannot be written.
    """
    check_writable(folder, "hydra.run.dir")  # as no lock tells
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "run.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"another process is at work on the run in {folder}") from None
    try:
        yield  # the kernel lets go of the lock when the process ends, however it ends
    finally:
        lock.release()


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Configuration and group choices of the run in a folder."""
    if not folder.is_dir():
        raise UserError(f"run.resume={folder}: there is no such folder")
    if not (folder / ".hydra" / "config.yaml").is_file():
        raise UserError(
            f"run.resume={folder}: this is no run's folder, .hydra/config.yaml is missing"
        )
    refuse_links(folder)
    return plain(stored.configuration(folder)[1]), stored.choices(folder)


def _newest_unfinished(line: CommandLine) -> tuple[Path, list[str]] | None:
    """The folder of an unfinished run of this command, and the words to go on with it."""
    config = compose_config(line.overrides, line.config_dir)
    now, choices_now = plain(config), dict(config.hydra.runtime.choices)
    place = Path(config.hydra.run.dir)
    for folder in _candidates(line, place):
        try:
            if (folder / "result.json").exists() or not (folder / ".hydra").is_dir():
                continue
            saved, saved_choices = _read(folder)
            before = saved_words.by_default(folder, line.overrides)
        except (OSError, UserError) as error:  # of a run that was killed as it began, say
            print(f"run.resume=auto: {folder} is passed over: {sentence(error)}", file=sys.stderr)
            continue
        words, asked, choices = line.overrides, now, choices_now
        try:
            if any(choices_now.get(w.partition("=")[0]) != w.partition("=")[2] for w in before):
                words = [*before, *line.overrides]  # what is not said was another by default
                config = compose_config(words, line.config_dir)
                asked, choices = plain(config), dict(config.hydra.runtime.choices)
            # Of a folder that was named what it began with may have moved; among others it may not.
            sums = checksums.known(folder) if folder == place else None
            check_same(folder, saved, asked, saved_choices, choices, sums)
            with exclusive(folder):
                return folder, words
        except UserError:
            continue
    return None


def _candidates(line: CommandLine, place: Path) -> list[Path]:
    """Where an earlier run of this command may be, the newest first.

    Args:
        line: the command line.
        place: where a new run would go now.
    """
    given = line.value("hydra.run.dir")
    if given is not None and "${now:" not in given and (place / stored.HYDRA).is_dir():
        return [place]  # asked for by name, and begun: a run beside it is another one
    return sorted(place.parent.glob("*"), reverse=True)


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one of dotted keys."""
    if isinstance(values, Mapping):
        items: dict[str, Any] = {}
        for key, value in values.items():
            items |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
        return items
    return {prefix: values}


def _alike(value: Any) -> str:
    """A value as JSON with whole numbers as floats: 1 is 1.0, but neither "1" nor true."""
    if isinstance(value, list):
        return f"[{', '.join(map(_alike, value))}]"
    return json.dumps(float(value) if type(value) is int else value)
