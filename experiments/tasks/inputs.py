"""Say how a task reads what is to be answered: rows without their answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bilevel.errors import UserError
from experiments.tasks.examples import TaggedExample
from experiments.tasks.reading.cells import is_list, kind_of, list_of, text_in, words_of
from experiments.tasks.reading.dialect import Dialect
from experiments.tasks.reading.files import is_missing

__all__ = ["Inputs", "equal_choices", "text_inputs", "word_inputs"]


@dataclass(frozen=True)
class Inputs:
    """How rows are read that are to be predicted on.

    Attributes:
        columns: those that every row must fill, texts or lists.
        example: from a row and where it stands to an example whose answer says nothing; raises
            UserError where a cell holds something else.
        words: the one column is a list of words; a text is parted at white space.
        dialect: how the files are written that the task was trained on.
        separator: stands between the labels of a text in these files; None for lists of them.
    """

    columns: tuple[str, ...]
    example: Callable[[Mapping[str, Any], str], Any]
    words: bool = False
    dialect: Dialect = field(default_factory=Dialect)
    separator: str | None = None

    def row(self, text: str) -> dict[str, str]:
        """A text alone as a row.

        Raises:
            UserError: a row needs more than one.
        """
        if len(self.columns) > 1:
            raise UserError(
                f"one text alone is given, and this run reads the columns {self.columns}: give "
                "rows of them"
            )
        return {self.columns[0]: text}

    def is_empty(self, row: Mapping[str, Any]) -> str | None:
        """The first column that has nothing in it; None where all have."""
        for column in self.columns:
            value: Any = row.get(column)
            if is_missing(value) or (is_list(value) and len(value) == 0):
                return column
        return None


def text_inputs(
    columns: tuple[str, ...],
    example: Callable[[tuple[str, ...]], Any],
    dialect: Dialect | None = None,
    separator: str | None = None,
) -> Inputs:
    """Of columns of texts.

    Args:
        columns: their names.
        example: from their texts to an example.
        dialect, separator: see :class:`Inputs`.
    """

    def read(row: Mapping[str, Any], place: str) -> Any:
        return example(tuple(text_in(row, column, place) for column in columns))

    return Inputs(columns, read, dialect=dialect or Dialect(), separator=separator)


def word_inputs(column: str, dialect: Dialect | None = None) -> Inputs:
    """Of a column of words; a text in it is parted at white space.

    Args:
        column: its name, or position in files of lines.
        dialect: see :class:`Inputs`.
    """

    def read(row: Mapping[str, Any], place: str) -> TaggedExample:
        value = row.get(column)
        if not is_list(value) and not isinstance(value, str):
            raise UserError(
                f"{place} has {kind_of(value)} in column {column!r}, where a list of words must be"
            )
        values = list_of(value, column, place)
        words = value.split() if isinstance(value, str) else values
        return TaggedExample(words_of(words, place), ())

    return Inputs((column,), read, words=True, dialect=dialect or Dialect())


def equal_choices(inputs: Inputs, count: int) -> Inputs:
    """Rows of multiple choice for a run whose questions have ``count`` choices each."""

    def read(row: Mapping[str, Any], place: str) -> Any:
        example = inputs.example(row, place)
        if len(example.choices) != count:
            raise UserError(
                f"{place} has {len(example.choices)} choices, and this run's data have {count}: "
                "every question must have as many"
            )
        return example

    return replace(inputs, example=read)
