"""Read the eight GLUE tasks of the papers, from the hub or from files with its column names.

As in the papers, the development set (split "validation") is the test set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bilevel.errors import UserError, listed
from experiments.tasks.examples import Example
from experiments.tasks.from_files import FromFiles
from experiments.tasks.reading.files import Row, read_rows
from experiments.tasks.reading.labels import as_number, as_written, regression_target
from experiments.tasks.reading.rows import examples
from experiments.tasks.reading.splits import find_split, no_split
from experiments.tasks.task import Length

if TYPE_CHECKING:
    from experiments.tasks.kinds.labelled import LabelledData

__all__ = ["GLUE", "Glue"]


@dataclass(frozen=True)
class Entry:
    """One GLUE task; `labels` None means regression, the first metric is the primary one."""

    columns: tuple[str, ...]
    labels: tuple[str, ...] | None
    metrics: tuple[str, ...]


ENTAILMENT = ("entailment", "not_entailment")
PAIR = ("sentence1", "sentence2")

Name = Literal["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte"]
GLUE: dict[Name, Entry] = {
    "cola": Entry(("sentence",), ("unacceptable", "acceptable"), ("matthews", "accuracy")),
    "sst2": Entry(("sentence",), ("negative", "positive"), ("accuracy",)),
    "mrpc": Entry(PAIR, ("not_equivalent", "equivalent"), ("accuracy", "f1")),
    "stsb": Entry(PAIR, None, ("pearson", "spearman")),
    "qqp": Entry(("question1", "question2"), ("not_duplicate", "duplicate"), ("accuracy", "f1")),
    "mnli": Entry(
        ("premise", "hypothesis"), ("entailment", "neutral", "contradiction"), ("accuracy",)
    ),
    "qnli": Entry(("question", "sentence"), ENTAILMENT, ("accuracy",)),
    "rte": Entry(PAIR, ENTAILMENT, ("accuracy",)),
}


@dataclass(frozen=True)
class Glue(FromFiles):
    """A GLUE task."""

    name: Name
    """Which of the tasks."""
    data_dir: str | None = None
    """A folder with files train and validation (MNLI: validation_matched and
    validation_mismatched, or validation); null for the hub's nyu-mll/glue."""
    max_length: Length = 512
    """Tokens of an example at most; batches are padded to their own longest example only."""
    primary_metric: str | None = None
    """The metric, of the task's own, to judge by; null for the papers' usual one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        known = GLUE[self.name].metrics
        if self.primary_metric is not None and self.primary_metric not in known:
            raise UserError(
                f"task.primary_metric={self.primary_metric} is no metric of {self.name}: choose "
                f"one of {listed(known)}"
            )

    @property
    def metrics(self) -> tuple[str, ...]:
        """The task's scores, the primary one first."""
        known = GLUE[self.name].metrics
        primary = self.primary_metric or known[0]
        return (primary, *(metric for metric in known if metric != primary))

    def load(self) -> LabelledData:
        """Read the training set and the development set."""
        from experiments.tasks.kinds.labelled import LabelledData

        entry = GLUE[self.name]
        train, tests = self._from_hub() if self.data_dir is None else self._from_files()
        convert: Callable[[Any], int | float] = regression_target
        if entry.labels is not None:
            convert = _class_number(entry.labels)

        def prepared(split: str, rows: list[Row]) -> tuple[list[Example], list[int] | None]:
            where = f"{self.data_dir or 'nyu-mll/glue ' + self.name}, split {split}"
            found = examples(rows, entry.columns, "label", convert, where)
            return found, [int(example.label) for example in found] if entry.labels else None

        return LabelledData(
            name=self.name,
            train=self.kept_train(*prepared("train", train)),
            tests={
                _test_name(split): self.kept_test(*prepared(split, rows))
                for split, rows in tests.items()
            },
            test_source="validation",
            label_names=None if entry.labels is None else list(entry.labels),
            metrics=self.metrics,
            max_length=self.max_length,
        )

    def _from_files(self) -> tuple[list[Row], dict[str, list[Row]]]:
        assert self.data_dir is not None
        train = find_split(self.data_dir, "train")
        tests = {split: find_split(self.data_dir, split) for split in self._test_splits()}
        if not any(tests.values()):
            tests = {"validation": find_split(self.data_dir, "validation")}
        rows = {}
        for split, path in {"train": train, **tests}.items():
            if path is None:
                raise no_split(self.data_dir, split)
            rows[split] = read_rows(path, self.dialect)
        return rows.pop("train"), rows

    def _from_hub(self) -> tuple[list[Row], dict[str, list[Row]]]:
        from experiments.cli import hub

        found = hub.load("nyu-mll/glue", self.name)
        return list(found["train"]), {split: list(found[split]) for split in self._test_splits()}

    def _test_splits(self) -> list[str]:
        if self.name == "mnli":
            return ["validation_matched", "validation_mismatched"]
        return ["validation"]


def _class_number(names: Sequence[str]) -> Callable[[Any], int]:
    """The function from a label to its class: files carry names or, like the hub, numbers."""

    def convert(value: Any) -> int:
        written = as_written(value)
        number = names.index(written) if written in names else as_number(value)
        if not isinstance(number, int) or not 0 <= number < len(names):
            raise UserError(
                f"label {value!r} is unknown: it must be one of {listed(names)}, or a number from "
                f"0 to {len(names) - 1}"
            )
        return number

    return convert


def _test_name(split: str) -> str:
    """Name the test set of a split: validation -> test, validation_matched -> matched."""
    return "test" if split == "validation" else split.removeprefix("validation_")
