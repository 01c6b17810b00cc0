"""Hold what a paper prints, each figure with how sure it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from experiments.reproduction.checks import Reader

__all__ = ["CONFIDENCE", "Published", "find", "shown"]

# What is printed before a figure; only a verified one stands by itself.
CONFIDENCE = {"verified": "", "third_party": "(third party) ", "recalled": "(recalled) "}


@dataclass(frozen=True)
class Published:
    """Figures of one row.

    Attributes:
        confidence: verified (read in the paper, its pictures or its code), third_party (another
            paper or review says so) or recalled (remembered or assumed, not checked).
        source: where from, in a few words.
        params: parameters as printed.
        values: by column, the column ``avg`` included; a spread where the paper has one.
    """

    row: str
    confidence: str
    source: str
    params: str | None
    values: dict[str, tuple[float, float | None]]

    @classmethod
    def read(cls, part: Reader) -> Published:
        """Out of a file; the confidence must be there."""
        values = part.mapping("values")
        found = cls(
            row=part.text("row"),
            confidence=part.choice("confidence", tuple(CONFIDENCE)),
            source=part.text("source"),
            params=part.text("params", optional=True),
            values={name: _value(part, name, value) for name, value in values.items()},
        )
        part.end()
        return found

    def only(self, rows: Mapping[str, Any], tasks: Mapping[str, Any]) -> Published | None:
        """The part that concerns these rows and tasks' columns; None if there is none."""
        columns = {name for task in tasks.values() for name in task.columns}
        values = {name: value for name, value in self.values.items() if name in columns}
        return replace(self, values=values) if self.row in rows and values else None


def find(published: list[Published], row: str, column: str) -> Published | None:
    """The line that has a row's figure; the surest where there are several."""
    found = [p for p in published if p.row == row and column in p.values]
    return min(found, key=lambda p: list(CONFIDENCE).index(p.confidence), default=None)


def shown(published: Published | None, column: str) -> str:
    """A figure with its mark; a dash where there is none."""
    if published is None:
        return "-"
    mean, spread = published.values[column]
    return f"{CONFIDENCE[published.confidence]}{mean:g}" + (
        "" if spread is None else f" ± {spread:g}"
    )


def _value(part: Reader, name: str, value: Any) -> tuple[float, float | None]:
    pair = value if isinstance(value, list) else [value, None]
    numbers = [number for number in pair if number is not None]
    if len(pair) != 2 or not numbers or not all(type(n) in (int, float) for n in numbers):
        raise part.error(f"values.{name} must be a number, or [mean, spread]")
    return float(pair[0]), None if pair[1] is None else float(pair[1])
