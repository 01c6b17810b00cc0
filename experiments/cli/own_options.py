"""Take a program's own options out of its words, checked, and refuse words that nobody knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TypeVar

from bilevel.errors import UserError, listed, nearest
from bilevel.settings import Settings, from_values
from experiments.cli import places
from experiments.results.finished_run import take

__all__ = ["own_options"]

S = TypeVar("S", bound=Settings)


def own_options(
    kind: type[S], overrides: Sequence[str], groups: Sequence[str], *others: str
) -> tuple[S, dict[str, str | None], list[str]]:
    """Of a program that is told a run, options of its own, and ``GROUP.KEY=VALUE`` words.

    Args:
        kind: the class of its own options.
        overrides: the command line's words.
        groups: of the configuration, that have a say in it.
        others: further words that it takes, ``run`` and ``out``.

    Returns:
        The options; the further words (None where not given); and the words of the groups.

    Raises:
        UserError: names the word that is wrong, and what is allowed.
    """
    named = [field.name for field in fields(kind)]
    own, rest = take(overrides, **dict.fromkeys([*others, *named]))
    given = {name: places.value(f"{name}={own[name]}") for name in named if own[name] is not None}
    options = from_values(kind, given, "")
    known = [*others, *named, *groups]
    for word in rest:  # before anything is read
        key, equals, _ = word.partition("=")
        if not equals or key.lstrip("+~").split("@")[0].partition(".")[0] not in groups:
            raise UserError(
                f"unknown option {word!r}: options look like name=value, and allowed are "
                f"{listed(known)}{nearest(key, known)}"
            )
    return options, own, rest
