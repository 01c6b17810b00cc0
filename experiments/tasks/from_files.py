"""Give tasks that read files their common options: how the files are written, what is held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

from annotated_types import Gt, Lt
from pydantic import BeforeValidator

from bilevel.errors import UserError
from experiments.tasks.reading.dialect import Dialect
from experiments.tasks.task import Subset

__all__ = ["HELD_OUT", "ColumnName", "FromFiles", "Holdout", "check_distinct", "held_out"]

T = TypeVar("T")

HELD_OUT = "train_share"  # the source of a test set that is a share of the training file


def _name(value: object) -> object:
    """A column may be called 0, which YAML reads as a number."""
    return str(value) if type(value) is int else value


ColumnName = Annotated[str, BeforeValidator(_name)]
Holdout = Annotated[float, Gt(0), Lt(1)]


@dataclass(frozen=True, kw_only=True)
class FromFiles(Subset):
    """Base of tasks that read files.

    Raises:
        UserError: there is no such encoding, or the delimiter is no single character.
    """

    encoding: str | None = None
    """Of text files: latin-1, cp1252, utf-16, ...; null for UTF-8, with or without a byte-order
    mark."""
    delimiter: str | None = None
    """What parts the columns of csv and tsv files (comma, semicolon, tab, pipe, space, or one
    character), and the words and tags of CoNLL files; null: as the file's name says."""
    quoting: bool | None = None
    """Quotation marks enclose cells of csv and tsv files; null: they do, but for tabs in .tsv."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.dialect

    @property
    def dialect(self) -> Dialect:
        """How the text files are written."""
        return Dialect(self.encoding, self.delimiter, self.quoting)


def check_distinct(columns: dict[str, str | None]) -> None:
    """Refuse one column in two parts, such as the label among the texts.

    Args:
        columns: option -> the column that it names.

    Raises:
        UserError: two options name one column.
    """
    options: dict[str, str] = {}
    for option, column in columns.items():
        if column is not None and column in options:
            read = all("text_columns" in name for name in (options[column], option))
            why = "" if read else ": what a model reads must not hold what it is to say"
            raise UserError(f"{options[column]} and {option} both name the column {column!r}{why}")
        if column is not None:
            options[column] = option


def held_out(
    examples: Sequence[T], share: float, seed: int, classes: Sequence[int] | None = None
) -> tuple[list[T], list[T]]:
    """Part the examples of a single file into training and test set, both in the file's order.

    Args:
        examples: n of them.
        share: of the test set.
        seed: decides which.
        classes: n class numbers; then both parts have their proportions.

    Raises:
        UserError: one part would be empty.
    """
    from bilevel.data import split

    try:
        tested, trained = split(len(examples), share, seed, classes)
    except UserError as error:
        raise UserError(f"task.holdout={share}: {error}") from error
    return [examples[i] for i in trained], [examples[i] for i in tested]
