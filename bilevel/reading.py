"""Read text and JSON that may be damaged or somebody else's; say in a sentence what is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bilevel.errors import UserError

__all__ = ["json_object", "parsed", "plain_values", "read_text"]

# Far more than any file that is read whole has in it, and far less than a memory holds.
LARGEST = 2**28
# Of lists and mappings in one another; what walks through them afterwards calls itself.
DEEPEST = 50


def read_text(path: Path, largest: int = LARGEST) -> str:
    """The text of a file.

    Args:
        path: the file.
        largest: bytes that it may have.

    Raises:
        UserError: there is no such file, or it cannot be read, is too large or no text.
    """
    if not path.is_file():  # a pipe or a device would never end
        raise UserError(f"{path} is missing" if not path.exists() else f"{path} is no file")
    try:
        with open(path, "rb") as file:
            content = file.read(largest + 1)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    if len(content) > largest:
        raise UserError(f"{path} is larger than {largest // 2**20} MiB, which no such file is")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is damaged: no text in UTF-8 (byte {error.start})") from error


def parsed(text: str, place: str) -> Any:
    """The value of a JSON text.

    Args:
        text: of a file or a line.
        place: its name, for messages.

    Raises:
        UserError: it is no JSON, names something twice, or is nested too deeply.
    """
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except _TwiceError as error:
        raise UserError(
            f"{place} is damaged: {error.args[0]!r} stands twice in an object"
        ) from None
    except (ValueError, RecursionError) as error:  # of integers with thousands of digits too
        reason = "it is empty" if not text.strip() else str(error)
        raise UserError(f"{place} is damaged, it is no JSON: {reason}") from error
    plain_values(value, place)
    return value


class _TwiceError(Exception):
    """A name stands twice in an object."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, whose names are all different: which of two values is meant nobody can know."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for name in names if names.count(name) > 1))
    return found


def json_object(path: Path, needs: Iterable[str] = ()) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: the file.
        needs: keys that it must have.

    Raises:
        UserError: as :func:`read_text` and :func:`parsed`; it is no object; a key is missing.
    """
    value = parsed(read_text(path), str(path))
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: it holds no JSON object {{...}}")
    for key in needs:
        if key not in value:
            raise UserError(f"{path} is damaged: it has no {key!r}")
    return value


def plain_values(value: Any, place: str) -> None:
    """Check that a value is made of None, bool, numbers, text, lists and mappings of them.

    Raises:
        UserError: there is something else in it, text that cannot be written, or lists and
            mappings more than 50 deep.
    """
    rest: list[tuple[Any, int]] = [(value, 0)]
    while rest:
        item, depth = rest.pop()
        if depth > DEEPEST:
            raise UserError(f"{place} is damaged: more than {DEEPEST} lists in one another")
        if isinstance(item, dict):
            rest += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list):
            rest += [(part, depth + 1) for part in item]
        elif isinstance(item, str):
            if any("\ud800" <= letter <= "\udfff" for letter in item):
                raise UserError(f"{place} is damaged: half a character (a surrogate) in {item!r}")
        elif item is not None and not isinstance(item, (bool, int, float)):
            raise UserError(f"{place} is damaged: {type(item).__name__} is no plain value")
