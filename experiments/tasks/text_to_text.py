"""The user's own sources and targets: translation, data-to-text, summaries, answers, ..."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bilevel.errors import UserError
from experiments.tasks.base import Task, check_length, choose
from experiments.tasks.files import Row, find, is_missing, read
from experiments.tasks.rows import check_columns
from experiments.tasks.text import Decoding, TextData, TextExample
from experiments.text_metrics import TEXT_METRICS

__all__ = ["TextToText", "check_metrics", "grouped"]


class TextToText(Task):
    """Text to text on files train, validation and/or test in a folder.

    Rows of a test with the same source are one input with several references. The test set is
    the test file if there is one, else the validation file. Where there are both, the validation
    file is D_val of methods with ``method.split=null``.

    Args:
        data_dir: the folder.
        source_column: what the model reads.
        target_column: what it is to write: a text, or (parquet, jsonl) a list of texts.
        metrics: names in `experiments.text_metrics.TEXT_METRICS`, the primary one first.
        decoding: how the tests' answers are written.
        separator: see `experiments.tasks.text.TextData`.
        max_train: training pairs at most, None for all.
        max_test: test inputs at most, None for all.
        max_length: tokens of source (and, for causal models, target) at most.
        max_target_length: longer targets are cut; None refuses those that do not fit.
        subset_seed: decides which examples max_train and max_test keep.
        name: the task's name in results.
    """

    def __init__(
        self,
        data_dir: str | None,
        source_column: str | None = "source",
        target_column: str | None = "target",
        metrics: Sequence[str] = ("bleu", "rougeL"),
        decoding: Decoding | None = None,
        separator: str | None = None,
        max_train: int | None = None,
        max_test: int | None = None,
        max_length: int = 512,
        max_target_length: int | None = None,
        subset_seed: int = 0,
        name: str = "text_to_text",
    ) -> None:
        self.data_dir = _given(data_dir, "task.data_dir=DIR")
        self.columns = (
            _given(source_column, "task.source_column=COLUMN"),
            _given(target_column, "task.target_column=COLUMN"),
        )
        self.metrics = check_metrics(metrics)
        self.decoding = decoding or Decoding()
        self.separator = separator
        self.max_train = max_train
        self.max_test = max_test
        check_length(max_length)
        self.max_length = max_length
        self.max_target_length = max_target_length
        self.subset_seed = subset_seed
        self.name = name

    def load(self) -> TextData:
        """Read the files."""
        paths = {split: find(self.data_dir, split) for split in ("train", "validation", "test")}
        train, validation, test = paths.values()
        held_out = test or validation
        if train is None or held_out is None:
            raise UserError(
                f"task.data_dir={self.data_dir} has no file {'train' if train is None else 'test'} "
                "(.parquet, .csv, .tsv or .jsonl; the last three also .gz)"
            )
        pairs = self._pairs(train)
        tests = grouped(self._pairs(held_out))
        return TextData(
            name=self.name,
            train=choose(pairs, self.max_train, self.subset_seed, "task.max_train"),
            tests={"test": choose(tests, self.max_test, self.subset_seed, "task.max_test")},
            test_source="validation" if test is None else "test",
            metrics=self.metrics,
            max_length=self.max_length,
            validation=self._pairs(validation) if test is not None and validation else None,
            decoding=self.decoding,
            separator=self.separator,
            max_target_length=self.max_target_length,
        )

    def _pairs(self, path: Path) -> list[TextExample]:
        source, target = self.columns
        rows = read(path)
        check_columns(rows, self.columns, str(path))
        pairs = []
        for number, row in enumerate(rows):
            if is_missing(row[source]):
                raise UserError(f"row {number} of {path} has no text in column {source!r}")
            targets = _texts(row, target)
            if not targets:
                raise UserError(f"row {number} of {path} has no reference in column {target!r}")
            pairs += [TextExample(str(row[source]), text) for text in targets]
        return pairs


def grouped(pairs: Sequence[TextExample]) -> list[TextExample]:
    """One example for each source, in the order of its first row, with all targets as references.

    The first target is the one that the loss of the test is of.
    """
    references: dict[str, dict[str, None]] = {}
    for pair in pairs:
        references.setdefault(pair.source, {})[pair.target] = None
    return [TextExample(source, next(iter(t)), tuple(t)) for source, t in references.items()]


def check_metrics(metrics: Sequence[str]) -> tuple[str, ...]:
    """The metrics as a tuple; raises UserError for one that is unknown, or for none."""
    if not metrics:
        raise UserError("task.metrics is empty: name at least one")
    for metric in metrics:
        if metric not in TEXT_METRICS:
            raise UserError(f"unknown metric {metric!r}: known are {', '.join(TEXT_METRICS)}")
    return tuple(metrics)


def _texts(row: Row, column: str) -> list[str]:
    value: Any = row[column]
    values = list(value) if isinstance(value, list | tuple) or hasattr(value, "tolist") else [value]
    return [str(text) for text in values if not is_missing(text)]


def _given(value: str | None, option: str) -> str:
    if not value:
        raise UserError(f"task=text_to_text needs {option}")
    return value
