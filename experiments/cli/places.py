"""Write a folder's name as a word of the command line, and read it back: any name, one way.

Hydra reads the value of ``key=value`` by a grammar of its own, in which commas, brackets, quotes,
equal signs and letters outside English are syntax or mistakes. A folder's name may hold them all.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Sweep
from hydra.errors import HydraException

from bilevel import launcher
from bilevel.errors import UserError

__all__ = ["is_place", "read", "settled", "shell_line", "value", "word"]

# Options whose value is a folder or file (or a hub id, which needs no quotes): those of programs,
# those of the configuration, and whatever is called so.
OWN = (
    *("adapter", "classifier", "classifier_model", "data", "data_dir", "hypotheses"),
    *("language_model", "out", "run"),
)
NAMED = ("hydra.run.dir", "hydra.sweep.dir", "run.resume")
ENDINGS = ("_dir", "_file", "_folder", "_path", ".pretrained", ".warm_start")
# What the grammar reads as it stands; a number or null is told apart by trying.
PLAIN = re.compile(r"[\w/.@:+%-]+", re.ASCII)
# "${" that is to be resolved: before it an even number of backslashes.
LIVE = re.compile(r"(?<!\\)(?:\\\\)*\$\{")

# Several names that the grammar cannot read, as of folders at home.
LIST = re.compile(r"""[^'"()\[\]{}]+,[^'"()\[\]{}]+""")


def is_place(key: str) -> bool:
    """Whether an option's value is a folder or file."""
    key = key.lstrip("+")
    return key in (*OWN, *NAMED) or key.startswith("data.") or key.endswith(ENDINGS)


def word(key: str, place: str | Path) -> str:
    """``key=value`` that Hydra, and :func:`read`, read as exactly this place."""
    text = str(place)
    if text.startswith("~"):  # a name, not somebody's home
        text = f"./{text}"
    if PLAIN.fullmatch(text) and _parsed(text) == text:
        return f"{key}={text}"
    text = re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + "\\${", text)  # for OmegaConf
    text = re.sub(r'(\\*)"', lambda found: found[1] * 2 + '\\"', text)  # for Hydra
    text = re.sub(r"(\\+)\Z", lambda found: found[1] * 2, text)
    return f'{key}="{text}"'


def read(text: str) -> str | None:
    """The place that a value names: as it stands, or quoted for Hydra; ``~`` is somebody's home.

    Args:
        text: the value of a word, as it was typed.

    Returns:
        The name; None for ``null``.
    """
    if text == "null":
        return None
    found = _parsed(text)
    # Quoted, or with Hydra's backslashes; anything else that the grammar makes of it is no name.
    if isinstance(found, str) and (text[:1] in ("'", '"') or "\\" in text):
        # What OmegaConf does with it when it is used.
        text = re.sub(r"(\\+)\$\{", lambda m: m[1][: len(m[1]) // 2] + "${", found)
    return os.path.expanduser(text)


def value(given: str) -> Any:
    """What Hydra makes of the value of ``key=value``, for a configuration that is there already.

    Raises:
        UserError: several values, or none that can be read (Hydra's word for it).
    """
    found = OverridesParser.create().parse_override(given).value()
    if isinstance(found, Sweep):
        raise UserError(f"{given}: one value is needed here; quote one that holds commas")
    return found


def settled(words: Iterable[str], sweep: bool = False) -> list[str]:
    """The words, those of places in the one spelling that every reader agrees on.

    Args:
        words: ``key=value``, as typed.
        sweep: whether ``a,b`` are two values, not one name.

    Raises:
        UserError: a place has no name, as of a variable of the shell that is not set.
    """
    return [_settled(given, sweep) for given in words]


def shell_line(words: Sequence[str], program: str = "experiments.run") -> str:
    """What to paste into a shell in order to start a program with these words.

    On several processes, in the shell of each machine.
    """
    return shlex.join([*launcher.command(), "-m", program, *words])


def _settled(given: str, sweep: bool) -> str:
    key, equals, text = given.partition("=")
    if not equals or not is_place(key):
        return given
    if not text:
        raise UserError(f"{given}: this is empty, name a folder or file, or leave {key} out")
    found = _parsed(text)
    if sweep and (isinstance(found, Sweep) or (found is None and LIST.fullmatch(text))):
        if found is not None and not (isinstance(found, ChoiceSweep) and found.simple_form):
            return given  # glob(*) and the like
        elements = text.split(",") if found is None else found.list
        if any(LIVE.search(str(name)) for name in elements):
            return given
        return f"{key}=" + ",".join(word("", os.path.expanduser(str(e)))[1:] for e in elements)
    if isinstance(found, str) and LIVE.search(found):  # left to be resolved
        return given
    place = read(text)
    return given if place is None else word(key, place)


def _parsed(text: str) -> Any:
    """What Hydra's grammar makes of a value, None where it is a mistake (or null)."""
    try:
        return OverridesParser.create().parse_override(f"x={text}").value()
    except HydraException:
        return None
