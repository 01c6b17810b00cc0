"""Read the user's own files of one or two text columns and a label column: classes or numbers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilevel.errors import UserError, listed, nearest
from experiments.metrics.labels import METRICS
from experiments.tasks.examples import Example
from experiments.tasks.reading.files import Row, find_split, read_rows
from experiments.tasks.reading.rows import (
    class_number,
    class_numbers,
    examples,
    is_labelled,
    regression_target,
)
from experiments.tasks.task import Length, Subset

if TYPE_CHECKING:
    from experiments.tasks.kinds.labelled import LabelledData

__all__ = ["Classification"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Classification(Subset):
    """Text classification (or regression) on files train, validation and/or test in a folder.

    The test set is the test file if there is one with labels, else the validation file;
    `TaskData.test_source` says which. A validation file beside a labelled test file is
    `TaskData.validation`, what is chosen by. The classes are those of the training file.
    """

    data_dir: str | None = None
    """The folder; needed."""
    text_columns: tuple[str, ...] | str | None = None
    """One or two column names, [one] or [first,second]; needed."""
    label_column: str | None = "label"
    """The column whose values, names or numbers, are to be predicted."""
    regression: bool = False
    """Take the labels as real numbers to predict, not as classes."""
    metrics: tuple[str, ...] | None = None
    """Scores, the primary one first; null for accuracy and macro_f1, or pearson and spearman."""
    max_length: Length = 256
    """Tokens of an example at most."""
    name: str = "classification"
    """The task's name in results."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for value, option in (
            (self.data_dir, "data_dir=DIR"),
            (self.text_columns, "text_columns=[COLUMN]"),
            (self.label_column, "label_column=COLUMN"),
        ):
            if value is None:
                raise UserError(f"task={self.name} needs task.{option}")
        if not 1 <= len(self.columns) <= 2:
            raise UserError(
                f"task.text_columns must name one or two columns, not {len(self.columns)}"
            )
        for metric in self.scores:
            if metric not in METRICS:
                known = f"{listed(METRICS)}{nearest(metric, METRICS)}"
                raise UserError(f"task.metrics: unknown metric {metric!r}, known are {known}")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of texts."""
        columns = self.text_columns or ()
        return (columns,) if isinstance(columns, str) else columns

    @property
    def scores(self) -> tuple[str, ...]:
        """The metrics, the primary one first."""
        usual = ("pearson", "spearman") if self.regression else ("accuracy", "macro_f1")
        return self.metrics or usual

    def load(self) -> LabelledData:
        """Read the training file and the test (or validation) file."""
        from experiments.tasks.kinds.labelled import LabelledData

        assert self.data_dir is not None
        assert self.label_column is not None
        label = self.label_column
        path = find_split(self.data_dir, "train")
        if path is None:
            raise UserError(
                f"task.data_dir={self.data_dir} has no file train "
                "(.parquet, .csv, .tsv or .jsonl; the last three also .gz)"
            )
        train = read_rows(path)
        convert: Callable[[Any], int | float] = regression_target
        names = None
        if not self.regression:
            classes = class_numbers(train, label, str(path))
            convert, names = class_number(classes), [str(key) for key in classes]
        held_out = self._held_out(self.data_dir, label)
        tested = next(iter(held_out))

        def prepared(rows: list[Row], where: Path) -> tuple[list[Example], list[int] | None]:
            found = examples(rows, self.columns, label, convert, str(where))
            return found, None if self.regression else [int(e.label) for e in found]

        return LabelledData(
            name=self.name,
            train=self.kept_train(*prepared(train, path)),
            tests={"test": self.kept_test(*prepared(*held_out.pop(tested)))},
            test_source=tested,
            label_names=names,
            metrics=self.scores,
            max_length=self.max_length,
            validation=next((prepared(*rest)[0] for rest in held_out.values()), None),
        )

    def _held_out(self, data_dir: str, label: str) -> dict[str, tuple[list[Row], Path]]:
        """Rows of the files test and validation that have labels; the first is the test set."""
        found: dict[str, tuple[list[Row], Path]] = {}
        for split in ("test", "validation"):
            path = find_split(data_dir, split)
            rows = [] if path is None else read_rows(path)
            if path is None:
                continue
            # Alone, a validation file is the test set: what is wrong with its labels is told there.
            if is_labelled(rows, label) or (split == "validation" and not found):
                found[split] = rows, path
            elif split == "test":
                log.warning("%s has no labels: the validation file is the test set", path)
            else:
                log.warning("%s has no labels, so there is no validation data", path)
        if not found:
            raise UserError(
                f"task.data_dir={data_dir} has neither a labelled test file nor a validation "
                "file to test on"
            )
        return found
