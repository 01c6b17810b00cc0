"""Take over the words that a run's folder was started with, but for those that nobody may say.

``overrides.yaml`` of somebody else's folder could name callbacks to call (``hydra.callbacks``),
folders to import from (``hydra.searchpath``), files anywhere as options (``method=../../x``), or
secrets to put into a request (``${oc.env:TOKEN}``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from bilevel.errors import UserError
from experiments.config import stored
from experiments.config.schema import GROUPS

__all__ = ["by_default", "check_trust", "usable"]

OPTION = re.compile(r"\w[\w-]*(/\w[\w-]*)*")  # a name, and no way to somewhere else

TRUST = "trust_remote_code"


def usable(folder: Path, given: Sequence[str]) -> list[str]:
    """The saved words for the run's own configuration; Hydra's and ``run.resume`` are dropped.

    Args:
        folder: the run's.
        given: the words of the command line, which come after them.

    Raises:
        UserError: the file is damaged, or a word names a file elsewhere or a ``${...}`` and is not
            given anew.
    """
    keys = {key(word) for word in given}
    parser = OverridesParser.create()
    kept = []
    for word in stored.words(folder):
        if key(word).startswith("hydra"):
            continue
        try:
            found = parser.parse_override(word)  # as Hydra reads it
        except HydraException as error:
            path = folder / stored.HYDRA / "overrides.yaml"
            raise UserError(f"{path} is damaged: {word!r} is no name=value word") from error
        parts = re.split(r"[./@:]", f"{found.key_or_group}@{found.package or ''}")
        if "hydra" in parts or found.key_or_group == "run.resume":
            continue
        a_group = "." not in found.key_or_group
        if stored.is_followed(word) or (a_group and any(map(_leads_away, _texts(found.value())))):
            if found.key_or_group in keys:
                continue
            raise UserError(
                f"{folder}: its word {word} is not followed, for what a run's folder says must not "
                f"read anything else; give {found.key_or_group}=VALUE now"
            )
        kept.append(word)
    return kept


def by_default(folder: Path, given: Sequence[str]) -> list[str]:
    """``GROUP=OPTION`` for what the run took because it was the default, which may be another now.

    Args:
        folder: the run's.
        given: the words of the command line, whose groups are left out.

    Raises:
        UserError: a file is damaged.
    """
    said = {key(word) for word in (*stored.words(folder), *given)}
    return [
        f"{group}={option}"
        for group, option in stored.choices(folder).items()
        if group in GROUPS and group not in said and OPTION.fullmatch(str(option))
    ]


def check_trust(folder: Path, config: Mapping[str, Any], given: Sequence[str]) -> None:
    """Refuse to run the code of a model because the folder says so.

    Args:
        folder: the run's.
        config: composed of its words and of those given.
        given: the words of the command line.

    Raises:
        UserError: its model may run code of its own, and the command line does not say so.
    """
    model = config.get("model")
    wanted = isinstance(model, Mapping) and model.get(TRUST)
    if wanted and f"model.{TRUST}" not in {key(word) for word in given}:
        raise UserError(
            f"{folder}: that run ran the model's own code; a folder cannot allow that, so say "
            f"model.{TRUST}=true again if you trust the model"
        )


def key(word: str) -> str:
    """What a word of the command line sets: ``train.lr`` of ``++train.lr=1``."""
    return word.lstrip("+~ \t").partition("=")[0].partition("@")[0].strip()


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
    elif value is not None:
        yield str(value)


def _leads_away(text: str) -> bool:
    """Whether an option's name is a path to somewhere else."""
    return text.startswith("/") or ".." in re.split(r"[/\\]", text)
