"""Plain values (as YAML has them) held against Python annotations."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from bilevel.errors import UserError, listed, nearest

__all__ = ["convert", "describe", "fits"]

WORDS = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}


def convert(value: Any, hint: Any, path: str) -> Any:
    """``value`` as the annotation wants it: dicts become dataclasses, lists become tuples.

    Args:
        value: None, bool, number, str, list or dict.
        hint: a resolved annotation.
        path: where the value stands, for messages (``method.lower.lr``).

    Raises:
        UserError: the value does not suit the annotation.
    """
    record = _dataclass_of(hint)
    if record is not None and isinstance(value, dict):
        return _record(value, record, path)
    if not fits(value, hint):
        written = "null" if value is None else value
        raise UserError(f"{path}={written}: this must be {describe(hint)}")
    if isinstance(value, list) and any(get_origin(h) is tuple for h in _options(hint)):
        return tuple(value)
    if isinstance(value, int) and not isinstance(value, bool) and float in _options(hint):
        return value if int in _options(hint) else float(value)
    return value


def _record(value: dict[str, Any], record: type, path: str) -> Any:
    hints = typing.get_type_hints(record)
    names = [field.name for field in dataclasses.fields(record) if field.init]
    for key in value:
        if key not in names:
            raise UserError(
                f"unknown option {key!r} in {path}: allowed are {listed(names)}"
                f"{nearest(key, names)}"
            )
    return record(**{key: convert(v, hints[key], f"{path}.{key}") for key, v in value.items()})


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value suits an annotation; annotations with no plain values always do."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, option) for option in inner)
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in inner)
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (str, bool):
        return isinstance(value, hint)
    kind = origin or hint
    return _fits_container(value, kind, inner) if isinstance(kind, type) else True


def _fits_container(value: Any, kind: type, inner: tuple[Any, ...]) -> bool:
    if issubclass(kind, enum.Enum):
        return value in kind.__members__
    if dataclasses.is_dataclass(kind):
        return False
    if issubclass(kind, Mapping):
        return isinstance(value, dict) and (
            not inner or all(fits(item, inner[1]) for item in value.values())
        )
    if issubclass(kind, tuple) and inner and inner[-1] is not ...:
        return isinstance(value, list) and (
            len(value) == len(inner) and all(map(fits, value, inner))
        )
    if issubclass(kind, Sequence):
        return isinstance(value, list) and (
            not inner or all(fits(item, inner[0]) for item in value)
        )
    return True


def describe(hint: Any) -> str:
    """An annotation in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint in WORDS:
        return WORDS[hint]
    if hint is type(None):
        return "null"
    if origin is Literal:
        return "one of " + listed(inner)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(option) for option in inner)
    kind = origin or hint
    if not isinstance(kind, type):
        return str(kind)
    if issubclass(kind, enum.Enum):
        return "one of " + listed(kind.__members__)
    if dataclasses.is_dataclass(kind) or issubclass(kind, Mapping):
        return "a group of options"
    if issubclass(kind, Sequence):
        item = f" of {len(inner)} values" if issubclass(kind, tuple) and ... not in inner else ""
        return f"a list{item} like [a,b]"
    return kind.__name__


def _options(hint: Any) -> tuple[Any, ...]:
    """The members of a union, else the annotation itself."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _dataclass_of(hint: Any) -> type | None:
    return next((h for h in _options(hint) if dataclasses.is_dataclass(h)), None)  # type: ignore[return-value]
