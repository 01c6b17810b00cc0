"""Read what is asked from Python: texts, pairs, lists of words, rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from bilevel.errors import UserError, listed
from experiments.answers import LABELS, TAGS, TEXT
from experiments.predicting.predictor import Predictor
from experiments.tasks.examples import Example, LabelSetExample, TextExample
from experiments.tasks.in_memory import GivenTask
from experiments.tasks.in_memory_rows import Alike
from experiments.tasks.in_memory_values import rows_of
from experiments.tasks.inputs import Inputs, text_inputs, word_inputs
from experiments.tasks.reading.cells import is_list, kind_of

__all__ = ["Asker", "GivenAsker", "RunAsker", "items_of"]

Read = Callable[[Any, str], Any]  # from one input, and what to call it, to an example


class Asker(Protocol):
    """What knows how the inputs of a fine-tuned model are read."""

    def of(self, first: Any) -> tuple[Predictor, Read]:
        """For inputs of the kind of the first one: what predicts, and what makes examples."""


@dataclass(frozen=True)
class RunAsker:
    """Of a run's folder: rows have the columns that its data have."""

    predictor: Predictor
    inputs: Inputs

    def of(self, first: Any) -> tuple[Predictor, Read]:
        """The same whatever comes."""
        return self.predictor, partial(_example, self.inputs)


@dataclass(frozen=True)
class GivenAsker:
    """Of a model that was fine-tuned from Python: texts, or rows that are tokenised already.

    Attributes:
        task: reads the rows.
        rows: predicts on them.
        texts: predicts on texts, which are tokenised here.
    """

    task: GivenTask
    rows: Predictor
    texts: Predictor

    def of(self, first: Any) -> tuple[Predictor, Read]:
        """Rows of tokens, or texts."""
        kind = self.task.answers.kind
        if isinstance(first, Mapping):
            return self.rows, self.task.asked if kind == TEXT else self._alike()
        if kind == TAGS:
            inputs = word_inputs("words")
        elif kind == TEXT:
            inputs = text_inputs(("text",), lambda texts: TextExample(texts[0], ""))
        else:
            columns = ("text", "text_pair") if is_list(first) else ("text",)
            inputs = text_inputs(
                columns,
                lambda texts: LabelSetExample(texts, ()) if kind == LABELS else Example(texts, 0),
            )
        return self.texts, partial(_example, inputs)

    def _alike(self) -> Read:
        """Reads rows that go into one batch; of text only the tokens are asked with."""
        alike = Alike()

        def read(row: Any, where: str) -> Any:
            example = self.task.asked(row, where)
            alike.check(example, where)
            return example

        return read


def items_of(inputs: Any) -> list[Any]:
    """The inputs, one after the other.

    Args:
        inputs: a list, a data set, a table of pandas, pyarrow or polars, or anything else to
            iterate over.

    Raises:
        UserError: it is one alone, or nothing to iterate over.
    """
    several = isinstance(inputs, Iterable) or hasattr(inputs, "to_pylist")  # pyarrow's table
    if isinstance(inputs, str | bytes | Mapping) or not several:
        raise UserError(
            f"predict takes a list, of texts, pairs, lists of words or rows, and not "
            f"{kind_of(inputs)} alone: write [...] around it"
        )
    return list(rows_of("inputs", inputs))


def _example(inputs: Inputs, item: Any, where: str) -> Any:
    row = _row(inputs, item, where)
    for column in inputs.columns:
        if column not in row:
            raise UserError(f"{where} has no column {column!r}: its columns are {listed(row)}")
    missing = inputs.is_empty(row)
    if missing is not None:
        raise UserError(f"{where} has nothing in {missing!r}, and nothing can be told from that")
    return inputs.example(row, where)


def _row(inputs: Inputs, item: Any, where: str) -> Mapping[str, Any]:
    if isinstance(item, Mapping):
        return item
    columns = inputs.columns
    if len(columns) == 1 and (isinstance(item, str) or (inputs.words and is_list(item))):
        return {columns[0]: item}
    if len(columns) > 1 and is_list(item) and len(item) == len(columns):
        return dict(zip(columns, item, strict=True))
    wanted = f"a text, or a row with the column {columns[0]!r}"
    if inputs.words:
        wanted = f"a list of words, or a row with the column {columns[0]!r}"
    elif len(columns) > 1:
        wanted = f"{len(columns)} texts, or a row with the columns {listed(columns)}"
    raise UserError(f"{where} is {kind_of(item)}, and this model reads {wanted}")
