"""The user's own files: one or two text columns and a label column, classes or numbers."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bilevel.errors import UserError
from experiments.metrics.labels import METRICS
from experiments.tasks.kinds.labelled import LabelledData
from experiments.tasks.reading.files import Row, find, read
from experiments.tasks.reading.rows import (
    class_number,
    class_numbers,
    examples,
    is_labelled,
    regression_target,
)
from experiments.tasks.task import Task, check_length, choose

__all__ = ["Classification"]

log = logging.getLogger(__name__)


class Classification(Task):
    """Text classification (or regression) on files train, validation and/or test in a folder.

    The test set is the test file if there is one with labels, else the validation file;
    `TaskData.test_source` says which. The classes are those of the training file.

    Args:
        data_dir: the folder.
        text_columns: one or two column names.
        label_column: its values are names or numbers.
        regression: take the labels as real numbers to predict, not as classes.
        metrics: names in `experiments.metrics.labels`, the primary one first; None for accuracy
            and macro-F1, or Pearson and Spearman correlation.
        max_train: training examples at most, None for all.
        max_test: test examples at most, None for all.
        max_length: tokens of an example at most.
        subset_seed: decides which examples max_train and max_test keep.
        name: the task's name in results.
    """

    def __init__(
        self,
        data_dir: str | None,
        text_columns: Sequence[str] | str | None,
        label_column: str | None = "label",
        regression: bool = False,
        metrics: Sequence[str] | None = None,
        max_train: int | None = None,
        max_test: int | None = None,
        max_length: int = 256,
        subset_seed: int = 0,
        name: str = "classification",
    ) -> None:
        self.name = name
        self.data_dir = _given(data_dir, "task.data_dir=DIR")
        columns = _given(text_columns, "task.text_columns=[COLUMN]")
        self.text_columns = [columns] if isinstance(columns, str) else list(columns)
        if not 1 <= len(self.text_columns) <= 2:
            raise UserError(
                f"task.text_columns must name one or two columns, not {len(self.text_columns)}"
            )
        self.label_column = _given(label_column, "task.label_column=COLUMN")
        self.regression = regression
        usual = ("pearson", "spearman") if regression else ("accuracy", "macro_f1")
        self.metrics = tuple(metrics or usual)
        for metric in self.metrics:
            if metric not in METRICS:
                raise UserError(f"unknown metric {metric!r}: known are {', '.join(METRICS)}")
        self.max_train = max_train
        self.max_test = max_test
        check_length(max_length)
        self.max_length = max_length
        self.subset_seed = subset_seed

    def load(self) -> LabelledData:
        """Read the training file and the test (or validation) file."""
        path = find(self.data_dir, "train")
        if path is None:
            raise UserError(
                f"task.data_dir={self.data_dir} has no file train "
                "(.parquet, .csv, .tsv or .jsonl; the last three also .gz)"
            )
        train = read(path)
        convert: Callable[[Any], int | float] = regression_target
        names = None
        if not self.regression:
            classes = class_numbers(train, self.label_column, str(path))
            convert, names = class_number(classes), [str(key) for key in classes]
        test_path, test = self._test_rows()

        def prepared(rows: list[Row], where: Path, limit: int | None, what: str) -> list:
            found = examples(rows, self.text_columns, self.label_column, convert, str(where))
            classes = None if self.regression else [int(example.label) for example in found]
            return choose(found, limit, self.subset_seed, what, classes)

        return LabelledData(
            name=self.name,
            train=prepared(train, path, self.max_train, "task.max_train"),
            tests={"test": prepared(test, test_path, self.max_test, "task.max_test")},
            test_source=test_path.name.split(".")[0],
            label_names=names,
            metrics=self.metrics,
            max_length=self.max_length,
        )

    def _test_rows(self) -> tuple[Path, list[Row]]:
        path = find(self.data_dir, "test")
        if path is not None:
            rows = read(path)
            if is_labelled(rows, self.label_column):
                return path, rows
            log.warning("%s has no labels: the validation file is the test set", path)
        path = find(self.data_dir, "validation")
        if path is None:
            raise UserError(
                f"task.data_dir={self.data_dir} has neither a labelled test file nor a validation "
                "file to test on"
            )
        return path, read(path)


def _given(value: Any, option: str) -> Any:
    if value is None:
        raise UserError(f"task=classification needs {option}")
    return value
