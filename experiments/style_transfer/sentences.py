"""Read the sentences to transfer, their styles, and what people made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bilevel.errors import UserError
from experiments.tasks.reading import formality
from experiments.tasks.reading.cells import text_of, texts_of
from experiments.tasks.reading.dialect import Dialect
from experiments.tasks.reading.files import is_missing, read_rows
from experiments.tasks.reading.labels import as_number
from experiments.tasks.reading.row import check_columns, place_of
from experiments.tasks.reading.splits import find_split, no_split
from experiments.tasks.task import choose

__all__ = ["Columns", "Sentence", "read_sentences"]

SPLIT = "test"
SEED = 0  # of the choice that max_test makes


class Columns(NamedTuple):
    """Names of the columns: Yelp's, unless others are given."""

    text: str = "text"
    label: str = "label"
    reference: str = "human_reference"


class Sentence(NamedTuple):
    """A sentence, its style (0 or 1), and human references in the other one."""

    text: str
    style: int
    references: tuple[str, ...]


def read_sentences(
    data_dir: str, columns: Columns, limit: int | None, dialect: Dialect | None = None
) -> Sequence[Sentence]:
    """The sentences of the file test in a folder, or of GYAFC's folder test.

    Args:
        data_dir: the folder.
        columns: the label is 0 or 1; the reference is a text or (Parquet, json) a list of texts.
        limit: at most so many (1 or more), in the styles' proportions; None for all.
        dialect: how the file is written.

    Raises:
        UserError: there is no such file or column, or a row lacks something or has another label.
    """
    if formality.is_there(data_dir, SPLIT):
        found = [Sentence(*sentence) for sentence in formality.read_split(data_dir, SPLIT, dialect)]
        for sentence in found:
            if not sentence.references:
                raise UserError(f"data_dir={data_dir}: {sentence.text!r} has no reference")
        return choose(found, limit, SEED, [sentence.style for sentence in found])
    path = find_split(data_dir, SPLIT)
    if path is None:
        raise no_split(data_dir, SPLIT, option="data_dir")
    rows = read_rows(path, dialect)
    check_columns(rows, columns, str(path))
    found = []
    for number, row in enumerate(rows):
        place = place_of(row, number, str(path))
        for column in columns:
            if is_missing(row.get(column)):
                raise UserError(f"{place} has nothing in column {column!r}")
        style = as_number(row[columns.label])
        if style not in (0, 1):
            raise UserError(f"{place} has the label {row[columns.label]!r}: it must be 0 or 1")
        references = tuple(texts_of(row[columns.reference], columns.reference, place))
        if not references:
            raise UserError(f"{place} has no reference")
        text = text_of(row[columns.text], columns.text, place)
        found.append(Sentence(text, int(style), references))
    return choose(found, limit, SEED, [sentence.style for sentence in found])
