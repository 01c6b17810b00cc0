"""The eight GLUE tasks of the papers, from the hub or from files with the hub's column names.

As in the papers, the development set (split "validation") is the test set.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bilevel.errors import UserError
from experiments.cli import hub
from experiments.tasks.kinds.labelled import LabelledData
from experiments.tasks.reading.files import Row, find, read
from experiments.tasks.reading.rows import class_number, examples, regression_target
from experiments.tasks.task import Task, check_length, choose

__all__ = ["GLUE", "Glue"]


@dataclass(frozen=True)
class Entry:
    """One GLUE task; `labels` None means regression, the first metric is the primary one."""

    columns: tuple[str, ...]
    labels: tuple[str, ...] | None
    metrics: tuple[str, ...]


ENTAILMENT = ("entailment", "not_entailment")
PAIR = ("sentence1", "sentence2")

GLUE: dict[str, Entry] = {
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


class Glue(Task):
    """A GLUE task.

    Args:
        name: a key of `GLUE`.
        data_dir: a folder with train and validation files (MNLI: validation_matched and
            validation_mismatched, or validation); None for the hub's nyu-mll/glue.
        max_train: training examples at most, None for all.
        max_test: test examples at most (of each test set), None for all.
        max_length: tokens of an example at most.
        subset_seed: decides which examples max_train and max_test keep.
        primary_metric: one of the task's metrics to judge by; None for the papers' usual one.
    """

    def __init__(
        self,
        name: str,
        data_dir: str | None = None,
        max_train: int | None = None,
        max_test: int | None = None,
        max_length: int = 512,
        subset_seed: int = 0,
        primary_metric: str | None = None,
    ) -> None:
        if name not in GLUE:
            raise UserError(f"unknown GLUE task {name!r}: known are {', '.join(GLUE)}")
        self.name = name
        self.data_dir = data_dir
        self.max_train = max_train
        self.max_test = max_test
        check_length(max_length)
        self.max_length = max_length
        self.subset_seed = subset_seed
        self.metrics = _primary_first(GLUE[name].metrics, primary_metric, name)

    def load(self) -> LabelledData:
        """Read the training set and the development set."""
        entry = GLUE[self.name]
        train, tests = self._from_hub() if self.data_dir is None else self._from_files()
        convert: Callable[[Any], int | float] = regression_target
        if entry.labels is not None:
            numbers: dict[int | str, int] = {label: i for i, label in enumerate(entry.labels)}
            # Files carry names or, like the hub, numbers.
            numbers |= {i: i for i in range(len(entry.labels))}
            convert = class_number(numbers)

        def prepared(split: str, rows: list[Row], limit: int | None, what: str) -> list:
            where = f"{self.data_dir or 'nyu-mll/glue ' + self.name}, split {split}"
            found = examples(rows, entry.columns, "label", convert, where)
            classes = [int(example.label) for example in found] if entry.labels else None
            return choose(found, limit, self.subset_seed, what, classes)

        return LabelledData(
            name=self.name,
            train=prepared("train", train, self.max_train, "task.max_train"),
            tests={
                _test_name(split): prepared(split, rows, self.max_test, "task.max_test")
                for split, rows in tests.items()
            },
            test_source="validation",
            label_names=None if entry.labels is None else list(entry.labels),
            metrics=self.metrics,
            max_length=self.max_length,
        )

    def _from_files(self) -> tuple[list[Row], dict[str, list[Row]]]:
        assert self.data_dir is not None
        train = find(self.data_dir, "train")
        tests = {split: find(self.data_dir, split) for split in self._test_splits()}
        if not any(tests.values()):
            tests = {"validation": find(self.data_dir, "validation")}
        for split, path in {"train": train, **tests}.items():
            if path is None:
                raise UserError(
                    f"task.data_dir={self.data_dir} has no file {split} "
                    "(.parquet, .csv, .tsv or .jsonl; the last three also .gz)"
                )
        return read(train), {split: read(path) for split, path in tests.items()}  # type: ignore[arg-type]

    def _from_hub(self) -> tuple[list[Row], dict[str, list[Row]]]:
        found = hub.load("nyu-mll/glue", self.name)
        return list(found["train"]), {split: list(found[split]) for split in self._test_splits()}

    def _test_splits(self) -> list[str]:
        if self.name == "mnli":
            return ["validation_matched", "validation_mismatched"]
        return ["validation"]


def _test_name(split: str) -> str:
    """Name the test set of a split: validation -> test, validation_matched -> matched."""
    return "test" if split == "validation" else split.removeprefix("validation_")


def _primary_first(metrics: tuple[str, ...], primary: str | None, name: str) -> tuple[str, ...]:
    if primary is None:
        return metrics
    if primary not in metrics:
        raise UserError(
            f"task.primary_metric={primary} is no metric of {name}: choose one of "
            f"{', '.join(metrics)}"
        )
    return (primary, *(metric for metric in metrics if metric != primary))
