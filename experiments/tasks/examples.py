"""Name the parts of an example, for each kind of task."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Example", "LabelSetExample", "TaggedExample", "TextExample"]


class Example(NamedTuple):
    """One or two texts, and a class number (int) or a regression target (float)."""

    texts: tuple[str, ...]
    label: int | float


class LabelSetExample(NamedTuple):
    """One or two texts, and the numbers of its labels in ascending order."""

    texts: tuple[str, ...]
    labels: tuple[int, ...]


class TaggedExample(NamedTuple):
    """The words of a sentence and as many IOB2 tags."""

    words: tuple[str, ...]
    tags: tuple[str, ...]


class TextExample(NamedTuple):
    """A source, the target that is learned, and all references (of a test; else none)."""

    source: str
    target: str
    references: tuple[str, ...] = ()
