"""Read the user's own questions on texts, whose answers stand in the texts: SQuAD and the like."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bilevel.settings import Count, Natural
from experiments.metrics.spans import SPAN_METRICS
from experiments.tasks.examples import SpanExample
from experiments.tasks.from_files import ColumnName, check_distinct
from experiments.tasks.inputs import Inputs, text_inputs
from experiments.tasks.question_files import QuestionFiles
from experiments.tasks.reading.files import Row
from experiments.tasks.reading.questions import answered, question_rows, questions
from experiments.tasks.reading.splits import SplitFiles
from experiments.tasks.task import TaskData, no_examples

if TYPE_CHECKING:
    from experiments.tasks.kinds.spans import SpanData

__all__ = ["QuestionAnswering"]

log = logging.getLogger(__name__)

ANSWERS = "answers"
# Of files with one answer a row.
FLAT = (("answer", "answer_start"), ("answer_text", "answer_start"))


@dataclass(frozen=True)
class QuestionAnswering(QuestionFiles):
    """Answers that stand in a text, on files with SQuAD's columns, or in SQuAD's own layout."""

    question_column: ColumnName = "question"
    """The column of the questions."""
    context_column: ColumnName = "context"
    """The column of the texts that hold the answers."""
    answers_column: ColumnName = ANSWERS
    """The column of the answers: objects or lists of them, in csv files as JSON; or the text of one
    answer, which is what answer or answer_text are where there is no such column."""
    start_column: ColumnName | None = None
    """The column of the character at which the one answer of a row begins, from 0; null: it is in
    the answers, or the answer stands in its text once."""
    id_column: ColumnName = "id"
    """The column of the questions' own ids, if there is one."""
    unanswerable: bool = False
    """A row without an answer is a question that has none, and none may be said (SQuAD 2)."""
    stride: Natural = 128
    """Tokens by which the windows of a text overlap that is longer than max_length."""
    max_answer_tokens: Count = 30
    """Tokens of an answer that is said, at most."""
    name: str = "question_answering"
    """The task's name in results."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_distinct(
            {
                "task.question_column": self.question_column,
                "task.context_column": self.context_column,
                "task.answers_column": self.answers_column,
                "task.start_column": self.start_column,
            }
        )

    def inputs(self) -> Inputs:
        """Question and context."""
        columns = (self.question_column, self.context_column)
        return text_inputs(columns, lambda texts: SpanExample(texts[0], texts[1]), self.dialect)

    def to_predict(self, labels: Sequence[str] | None) -> TaskData:
        """No file is read."""
        return self._data(None, **no_examples())

    def _rows(self, paths: SplitFiles) -> list[Row]:
        return question_rows(paths, self.dialect)

    def _answered(self, rows: Sequence[Row]) -> bool:
        return answered(rows, *self._columns(rows))

    def _names(self, rows: Sequence[Row], where: str) -> None:
        return None

    def _examples(
        self, rows: Sequence[Row], where: str, names: Sequence[str] | None
    ) -> list[SpanExample]:
        answers, start = self._columns(rows)
        if answers != self.answers_column:
            log.info("%s: the answers are in column %r, as there is no 'answers'", where, answers)
        columns = (self.question_column, self.context_column)
        own, may = self.id_column, self.unanswerable
        return questions(rows, columns, answers, where, start, own, may)

    def _columns(self, rows: Sequence[Row]) -> tuple[str, str | None]:
        """Of the answers, and of where they begin."""
        known = {name for row in rows for name in row}
        if self.answers_column == ANSWERS and ANSWERS not in known and self.start_column is None:
            for answer, start in FLAT:
                if answer in known:
                    return answer, start if start in known else None
        return self.answers_column, self.start_column

    def _text(self, example: SpanExample) -> str:
        return example.context

    def _data(self, names: Sequence[str] | None, **values: Any) -> SpanData:
        from experiments.tasks.kinds.spans import SpanData

        return SpanData(
            name=self.name,
            metrics=tuple(SPAN_METRICS),
            max_length=self.max_length,
            stride=self.stride,
            max_answer_tokens=self.max_answer_tokens,
            unanswerable=self.unanswerable,
            **values,
        )
