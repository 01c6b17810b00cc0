"""Check the words of a command line that Hydra would take and nobody would have meant."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from bilevel.checkpoint.disk import check_writable
from bilevel.errors import UserError, listed, nearest
from experiments.config.other_names import ours
from experiments.config.schema import GROUPS, root_defaults

__all__ = ["check_place", "check_words"]


def check_words(words: Iterable[str], multirun: bool = False, groups: Sequence[str] = ()) -> None:
    """Refuse options that are taken away, or new at the top, and groups without one name.

    Args:
        words: of the command line, but its flags.
        multirun: whether a word may have several values.
        groups: configuration groups besides ours (experiment, the user's own).

    Raises:
        UserError: names the word.
    """
    for word in words:
        key, equals, value = word.partition("=")
        name = key.lstrip("+~")
        if name.startswith("hydra"):
            continue
        if key.startswith("~"):
            raise UserError(
                f"{word}: {name} cannot be taken away; set it, {name}=VALUE, as "
                f"--help {name.partition('.')[0]} says"
            )
        top = name.partition(".")[0].partition("@")[0].partition("/")[0]
        if key.startswith("+") and top not in (*root_defaults(), *groups):
            known = list(root_defaults())
            hint = ours(name) or nearest(name, [*known, *groups])
            raise UserError(f"unknown option {name!r}: allowed are {listed(known)}{hint}")
        if equals and name in (*GROUPS, *groups) and not multirun:
            _check_name(name, value)


def check_place(folder: str, option: str = "hydra.run.dir") -> None:
    """Refuse a folder of a run or sweep that cannot be made.

    Args:
        folder: which.
        option: the one that names it.

    Raises:
        UserError: it has no name, a file is in its place, or nobody may write there.
    """
    if not folder.strip():
        raise UserError(f"{option} is empty: name a folder")
    place = Path(folder).absolute()
    there = next(part for part in (place, *place.parents) if part.exists())
    if not there.is_dir():
        raise UserError(f"{option}={folder}: {there} is a file, and no folder can be in it")
    check_writable(place, option)


def _check_name(group: str, value: str) -> None:
    try:
        read = json.loads(value or "null")
    except json.JSONDecodeError:
        read = value
    if not isinstance(read, str) or value[0] in "[{":
        raise UserError(f"{group}={value}: give one name; --help {group} lists them")
