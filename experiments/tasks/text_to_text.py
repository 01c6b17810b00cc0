"""Read the user's own sources and targets: translation, data-to-text, summaries, answers, ..."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from bilevel.errors import UserError
from experiments.answers import Decoding
from experiments.tasks.generation import Generation, texts
from experiments.tasks.reading.files import Row

__all__ = ["TextToText"]


@dataclass(frozen=True)
class TextToText(Generation):
    """Text to text on files train, validation and/or test in a folder.

    The test set is the test file if there is one, else the validation file;
    `TaskData.test_source` says which.
    """

    test_splits: ClassVar[tuple[str, ...]] = ("test", "validation")

    name: str = "text_to_text"
    metrics: tuple[str, ...] = ("bleu", "rougeL")
    decoding: Decoding = field(default_factory=lambda: Decoding(beams=4))
    source_column: str = "source"
    """The column that the model reads."""
    target_column: str = "target"
    """The column that it is to write: a text, or (parquet, jsonl) a list of texts."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for value, option in (
            (self.source_column, "source_column"),
            (self.target_column, "target_column"),
        ):
            if not value:
                raise UserError(f"task={self.name} needs task.{option}=COLUMN")

    @property
    def columns(self) -> tuple[str, ...]:
        """Source and target."""
        return self.source_column, self.target_column

    def read_row(self, row: Row, place: str) -> tuple[str, list[str]]:
        """The texts as they are."""
        return str(row[self.source_column]), texts(row[self.target_column])
