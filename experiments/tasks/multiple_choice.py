"""Read the user's own questions of multiple choice: SWAG, RACE, ARC, CommonsenseQA and the like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bilevel.errors import UserError
from experiments.tasks.examples import ChoiceExample
from experiments.tasks.from_files import ColumnName, check_distinct
from experiments.tasks.inputs import Inputs
from experiments.tasks.question_files import QuestionFiles
from experiments.tasks.reading.choices import (
    ChoiceColumns,
    choice_names,
    choices_answered,
    choices_of,
    multiple_choices,
)
from experiments.tasks.reading.files import Row, read_rows
from experiments.tasks.reading.splits import SplitFiles
from experiments.tasks.task import TaskData, no_examples

if TYPE_CHECKING:
    from experiments.tasks.kinds.choices import ChoiceData

__all__ = ["MultipleChoice"]


@dataclass(frozen=True)
class MultipleChoice(QuestionFiles):
    """Questions that offer answers of their own, equally many each, on files in a folder."""

    context_column: ColumnName | None = None
    """The column of the texts that questions are on; null: there is none."""
    question_column: ColumnName | None = "question"
    """The column of the questions, or of the beginning of a sentence that each choice goes on with;
    null: there is none."""
    choices_column: ColumnName = "choices"
    """The column of the choices: lists, or objects with text and label; in csv files as JSON."""
    choice_columns: tuple[ColumnName, ...] | None = None
    """The columns of the choices, one each, in the place of choices_column."""
    label_column: ColumnName = "label"
    """The column of the right choice: its number from 0 or from 1, a letter, or its text."""
    name: str = "multiple_choice"
    """The task's name in results."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.context_column is None and self.question_column is None:
            raise UserError(
                "task.question_column and task.context_column are both null: name what is asked"
            )
        if self.choice_columns is not None and len(self.choice_columns) < 2:
            raise UserError(
                f"task.choice_columns={list(self.choice_columns)}: there must be two or more"
            )
        check_distinct(
            {
                "task.context_column": self.context_column,
                "task.question_column": self.question_column,
                "task.label_column": self.label_column,
                **{
                    f"task.choice_columns[{i}]": name
                    for i, name in enumerate(self._columns.choices)
                },
            }
        )

    @property
    def _columns(self) -> ChoiceColumns:
        texts = (self.context_column, self.question_column)
        return ChoiceColumns(
            tuple(name for name in texts if name is not None),
            self.choice_columns or (self.choices_column,),
            self.label_column,
        )

    def inputs(self) -> Inputs:
        """What is asked, and the choices."""
        columns = self._columns

        def read(row: Mapping[str, Any], place: str) -> ChoiceExample:
            asked, offered = choices_of(row, columns, None, place)
            return ChoiceExample(asked, offered.texts, 0)

        return Inputs(columns.read, read, dialect=self.dialect)

    def to_predict(self, labels: Sequence[str] | None) -> TaskData:
        """The names of the choices; no file is read where the run names them."""
        if labels is None:
            return super().to_predict(labels)
        return self._data(labels, **no_examples())

    def _rows(self, paths: SplitFiles) -> Sequence[Row]:
        return read_rows(paths, self.dialect)

    def _answered(self, rows: Sequence[Row]) -> bool:
        return choices_answered(rows, self._columns)

    def _names(self, rows: Sequence[Row], where: str) -> list[str]:
        return choice_names(rows, self._columns, where)

    def _names_to_score(
        self, rows: Sequence[Row], where: str, names: Sequence[str] | None
    ) -> Sequence[str] | None:
        """The run's names of the places, or where rows are not read by these, the rows' own."""
        if names is None:
            return None
        try:
            self._examples(rows, where, names)
        except UserError:
            return self._names(rows, where)
        return names

    def _examples(
        self, rows: Sequence[Row], where: str, names: Sequence[str] | None
    ) -> list[ChoiceExample]:
        known = self._names(rows, where) if names is None else names
        return multiple_choices(rows, self._columns, known, where)

    def _text(self, example: ChoiceExample) -> str:
        if self.context_column is not None:
            return example.texts[0]
        # "What follows?" may stand in every row; in whatever order, its choices make it this one.
        return "\n".join((*example.texts, *sorted(example.choices)))

    def _data(self, names: Sequence[str] | None, **values: Any) -> ChoiceData:
        from experiments.tasks.kinds.choices import ChoiceData

        return ChoiceData(
            name=self.name,
            metrics=("accuracy",),
            max_length=self.max_length,
            label_names=list(names or ()),
            **values,
        )
