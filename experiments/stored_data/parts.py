"""Take one part of each example (its label, its source) without making the examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from experiments.tasks.examples import Placed

__all__ = ["column", "source_of", "sources_of"]


@runtime_checkable
class InColumns(Protocol):
    """Examples whose parts lie one after the other."""

    def numbers(self, name: str) -> list[Any]:
        """A column of numbers."""

    def sources(self) -> list[str | None]:
        """The name of the source of each."""


def column(examples: Sequence[Any], name: str) -> list[Any]:
    """A part of each example that is a number: ``label``."""
    if isinstance(examples, InColumns):
        return examples.numbers(name)
    return [getattr(example, name) for example in examples]


def source_of(example: Any) -> str | None:
    """The name of an example's source; None without one."""
    origin = example.origin if isinstance(example, Placed) else None
    return None if origin is None else origin.source


def sources_of(examples: Sequence[Any]) -> list[str | None]:
    """:func:`source_of` each example."""
    if isinstance(examples, InColumns):
        return examples.sources()
    return [source_of(example) for example in examples]
