"""Read a YAML file so that every slip in it is told with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from bilevel.errors import UserError, listed

__all__ = ["Reader"]

SCALARS = (str, int, float, bool, type(None))


class Reader:
    """A mapping of a file that is taken apart key by key; :meth:`end` finds what nobody asked for.

    Args:
        where: the place, for messages.
        values: the mapping.
    """

    def __init__(self, where: str, values: Any) -> None:
        self.where = where
        if not isinstance(values, dict):
            raise self.error("must be a mapping")
        self._values: dict[str, Any] = dict(values)

    @classmethod
    def file(cls, path: Path) -> Reader:
        """The whole of a file."""
        try:
            return cls(str(path), yaml.safe_load(path.read_text(encoding="utf-8")))
        except yaml.YAMLError as error:
            raise UserError(f"{path} is no YAML: {' '.join(str(error).split())}") from error

    def error(self, what: str) -> UserError:
        """A mistake at this place."""
        return UserError(f"{self.where}: {what}")

    def at(self, name: str, values: Any) -> Reader:
        """A part with its place."""
        return Reader(f"{self.where}, {name}", values)

    def _take(self, key: str, kind: type | tuple[type, ...], optional: bool, empty: Any) -> Any:
        value = self._values.pop(key, None)
        if value is None:
            if optional:
                return empty
            raise self.error(f"{key} is missing")
        if not isinstance(value, kind):
            raise self.error(f"{key} is of the wrong type")
        return value

    def text(self, key: str, optional: bool = False) -> Any:
        """A text; None if it may be left out and is."""
        return self._take(key, str, optional, None)

    def choice(self, key: str, allowed: tuple[str, ...], default: str | None = None) -> str:
        """One of some words."""
        value: str = self._take(key, str, default is not None, default)
        if value not in allowed:
            raise self.error(f"{key} is {value!r}, allowed are {listed(allowed)}")
        return value

    def number(self, key: str, default: float) -> float:
        """A number."""
        return float(self._take(key, (int, float), True, default))

    def flag(self, key: str) -> bool:
        """true or false; false if left out."""
        return bool(self._take(key, bool, True, False))

    def texts(self, key: str) -> list[str]:
        """A list of texts, empty if left out."""
        found: list[Any] = self._take(key, list, True, [])
        if not all(isinstance(item, str) for item in found):
            raise self.error(f"{key} must be a list of texts (quote those with a colon)")
        return found

    def integers(self, key: str) -> list[int]:
        """A list of whole numbers, at least one."""
        found: list[Any] = self._take(key, list, False, [])
        if not found or not all(type(item) is int for item in found):
            raise self.error(f"{key} must be a list of whole numbers")
        return found

    def mapping(self, key: str, optional: bool = False) -> dict[str, Any]:
        """A mapping by names."""
        return {str(k): v for k, v in self._take(key, dict, optional, {}).items()}

    def settings(self, key: str) -> dict[str, Any]:
        """Dotted options with plain values; empty if left out."""
        found = self.mapping(key, optional=True)
        for name, value in found.items():
            if not isinstance(value, SCALARS):
                raise self.error(f"{key}.{name} must be a plain value")
        return found

    def part(self, key: str, optional: bool = False) -> Reader | None:
        """A mapping inside this one."""
        values = self._take(key, dict, optional, None)
        return None if values is None else self.at(key, values)

    def parts(self, key: str, optional: bool = False) -> list[Reader]:
        """A list of mappings."""
        found = self._take(key, list, optional, [])
        return [self.at(f"{key}[{i}]", values) for i, values in enumerate(found)]

    def one_or_more(self, key: str) -> list[Reader]:
        """A mapping inside this one, or a list of some; empty if left out."""
        if isinstance(self._values.get(key), list):
            return self.parts(key)
        part = self.part(key, optional=True)
        return [] if part is None else [part]

    def end(self) -> None:
        """Raise UserError if anything is left."""
        if self._values:
            raise self.error(f"unknown {listed(self._values)}")
