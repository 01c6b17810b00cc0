"""Read the user's own sources and targets: translation, data-to-text, summaries, answers, ..."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from bilevel.errors import UserError
from experiments.answers import Decoding
from experiments.tasks.from_files import HELD_OUT, ColumnName, Holdout, check_distinct
from experiments.tasks.generation import Generation, Split
from experiments.tasks.reading.cells import text_of, texts_of
from experiments.tasks.reading.files import Row
from experiments.tasks.reading.splits import no_test

__all__ = ["TextToText"]


@dataclass(frozen=True)
class TextToText(Generation):
    """Text to text on files train, validation and/or test in a folder.

    The test set is the test file if there is one, else the validation file, else (with
    ``holdout``) a share of the training file; `TaskData.test_source` says which.
    """

    test_splits: ClassVar[tuple[str, ...]] = ("test", "validation", HELD_OUT)

    name: str = "text_to_text"
    metrics: tuple[str, ...] = ("bleu", "rougeL")
    decoding: Decoding = field(default_factory=lambda: Decoding(beams=4))
    source_column: ColumnName = "source"
    """The column that the model reads."""
    target_column: ColumnName = "target"
    """The column that it is to write: a text, or (parquet, jsonl) a list of texts."""
    holdout: Holdout | None = None
    """The share of a single file that becomes the test set; which rows follows from subset_seed,
    and rows with the same source are in the same part. null: there is a file to test on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for value, option in (
            (self.source_column, "source_column"),
            (self.target_column, "target_column"),
        ):
            if not value:
                raise UserError(f"task={self.name} needs task.{option}=COLUMN")
        check_distinct(
            {"task.source_column": self.source_column, "task.target_column": self.target_column}
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Source and target."""
        return self.source_column, self.target_column

    @property
    def source_columns(self) -> tuple[str, ...]:
        """The source."""
        return (self.source_column,)

    def read_source(self, row: Mapping[str, Any], place: str) -> str:
        """The text as it is."""
        return text_of(row[self.source_column], self.source_column, place)

    def read_row(self, row: Row, place: str) -> tuple[str, list[str]]:
        """The texts as they are."""
        targets = texts_of(row[self.target_column], self.target_column, place)
        return self.read_source(row, place), targets

    def scored_whole(self) -> TextToText:
        """Without ``holdout``."""
        return self if self.holdout is None else replace(self, holdout=None, train_split=None)

    def _splits(self) -> dict[str, Split]:
        assert self.data_dir is not None
        if self.train_split != "train":
            return super()._splits()
        files = self.own_files(self.data_dir)
        splits = {
            split: (str(f), self.read(f, trained=split == "train")) for split, f in files.items()
        }
        if self.holdout is None:
            if len(splits) == 1:
                raise no_test(self.data_dir)
            return splits
        if len(splits) > 1:
            raise UserError(
                f"task.holdout={self.holdout} is for data in one single file, and there is a file "
                f"{', '.join(s for s in splits if s != 'train')} too: set task.holdout=null"
            )
        return self._parted(*splits["train"], self.holdout, "task.holdout")
