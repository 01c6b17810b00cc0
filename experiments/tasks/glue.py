"""Read the eight GLUE tasks of the papers, from the hub or from files with its column names.

As in the papers, the development set (split "validation") is the test set; but where a folder has a
labelled test file too (GLUE's own have no labels), that is, and the development set is what is
chosen by.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bilevel.errors import UserError, listed
from experiments.stored_data.parts import column
from experiments.stored_data.spool import held
from experiments.tasks.examples import Example
from experiments.tasks.from_files import LabelledFiles
from experiments.tasks.inputs import Inputs, text_inputs
from experiments.tasks.label_trust import LabelTrust
from experiments.tasks.odd_labels import say_odd_numbers, say_unseen
from experiments.tasks.reading.files import Row, read_rows
from experiments.tasks.reading.labels import (
    as_number,
    as_written,
    is_bool,
    is_labelled,
    regression_target,
)
from experiments.tasks.reading.rows import examples
from experiments.tasks.reading.splits import SplitFiles, find_split, no_split
from experiments.tasks.task import Length, no_examples

if TYPE_CHECKING:
    from experiments.tasks.kinds.labelled import LabelledData

__all__ = ["GLUE", "Glue"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One GLUE task; `labels` None means regression, the first metric is the primary one."""

    columns: tuple[str, ...]
    labels: tuple[str, ...] | None
    metrics: tuple[str, ...]


HUB_ID = "nyu-mll/glue"
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
class Glue(LabelTrust, LabelledFiles):
    """A GLUE task."""

    name: Name
    """Which of the tasks."""
    data_dir: str | None = None
    """A folder with files train and validation (MNLI: validation_matched and
    validation_mismatched, or validation), and perhaps a labelled test (likewise); null for the
    hub's nyu-mll/glue."""
    max_length: Length = 512
    """Tokens of an example at most; batches are padded to their own longest example only."""
    primary_metric: str | None = None
    """The metric, of the task's own, to judge by; null for the papers' usual one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_sources_here(self.data_dir)
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
        return self._load(trained=True)

    def published(self) -> str | None:
        """The hub's GLUE, where no folder is read."""
        return HUB_ID if self.data_dir is None else None

    def to_score(self, labels: Sequence[str] | None) -> LabelledData:
        """As :meth:`load`; the training file may be missing."""
        if self != (plain := self.unsourced()):
            return plain.to_score(labels)
        there = self.data_dir is None or find_split(self.data_dir, "train") is not None
        return self._load(trained=there)

    def inputs(self) -> Inputs:
        """The task's texts."""
        columns = GLUE[self.name].columns
        return text_inputs(columns, lambda texts: Example(texts, 0), self.dialect)

    def to_predict(self, labels: Sequence[str] | None) -> LabelledData:
        """The classes alone; no file is read."""
        from experiments.tasks.kinds.labelled import LabelledData

        names = GLUE[self.name].labels
        return LabelledData(
            name=self.name,
            **no_examples(),
            label_names=None if names is None else list(names),
            metrics=self.metrics,
            max_length=self.max_length,
        )

    def _load(self, trained: bool) -> LabelledData:
        from experiments.tasks.kinds.labelled import LabelledData

        entry = GLUE[self.name]
        train, held_out = self._from_hub() if self.data_dir is None else self._from_files(trained)
        tests = {split: rows for split, rows in held_out.items() if split.startswith("test")}
        validation = {split: rows for split, rows in held_out.items() if split not in tests}
        convert: Callable[[Any], int | float] = regression_target
        if entry.labels is not None:
            convert = _class_number(entry.labels)

        def prepared(split: str, rows: Sequence[Row]) -> tuple[Sequence[Example], list[int] | None]:
            where = f"{self.data_dir or f'{HUB_ID} {self.name}'}, split {split}"
            found = examples(rows, entry.columns, "label", convert, where)
            return found, column(found, "label") if entry.labels else None

        def chosen_by() -> Sequence[Example]:
            parts = [prepared(split, rows)[0] for split, rows in validation.items()]
            return parts[0] if len(parts) == 1 else held(e for part in parts for e in part)

        learned: tuple[Sequence[Example], list[int] | None] = ([], None)
        if trained:
            learned = prepared("train", train)
        kept = self.kept_train(*learned)
        if entry.labels is not None and trained:
            where = f"task {self.name}: what is trained on of split train"
            say_unseen(entry.labels, set(column(kept, "label")), where)
        if entry.labels is None:
            say_odd_numbers(column(learned[0], "label"), f"task {self.name}, split train")
        found = LabelledData(
            name=self.name,
            train=kept,
            train_source="train" if trained else None,
            tests={
                _test_name(split): self.kept_test(*prepared(split, rows))
                for split, rows in (tests or validation).items()
            },
            test_source="test" if tests else "validation",
            label_names=None if entry.labels is None else list(entry.labels),
            metrics=self.metrics,
            max_length=self.max_length,
            validation=(chosen_by() or None) if tests else None,
        )
        return self.with_trust(found)

    def _from_files(self, trained: bool) -> tuple[Sequence[Row], dict[str, Sequence[Row]]]:
        assert self.data_dir is not None
        tests = {
            split: read_rows(path, self.dialect)
            for split, path in self._paths("test").items()
            if path
        }
        if tests and not all(is_labelled(rows, "label") for rows in tests.values()):
            log.info("%s: the test file has no labels: validation is the test set", self.data_dir)
            tests = {}
        train = (
            find_split(self.data_dir, "train")
            if self.sources is None
            else self.files_of_sources(self.data_dir)
        )
        paths = {"train": train, **self._paths("validation")}
        unneeded = {"validation"} if tests else set()
        unneeded |= set() if trained else {"train"}
        for split, path in paths.items():
            if path is None and split not in unneeded:
                raise no_split(self.data_dir, split)
        rows = {
            split: self.read(path, trained=split == "train")
            for split, path in paths.items()
            if path is not None
        }
        learned: Sequence[Row] = rows.pop("train", [])
        learned = self.source_names(self.data_dir).put_on(learned, f"{self.data_dir}, split train")
        return learned, {**rows, **tests}

    def _paths(self, kind: str) -> dict[str, SplitFiles | None]:
        """The files of the validation or test split, which MNLI has two of."""
        assert self.data_dir is not None
        found = {split: find_split(self.data_dir, split) for split in self._splits(kind)}
        return found if any(found.values()) else {kind: find_split(self.data_dir, kind)}

    def _from_hub(self) -> tuple[Sequence[Row], dict[str, Sequence[Row]]]:
        from experiments.cli import hub

        found = hub.load(HUB_ID, self.name, streaming=self.streaming)
        held_out = {split: self.from_hub(found, split) for split in self._splits("validation")}
        return self.from_hub(found, "train"), held_out

    def _splits(self, kind: str) -> list[str]:
        return [f"{kind}_matched", f"{kind}_mismatched"] if self.name == "mnli" else [kind]


def _class_number(names: Sequence[str]) -> Callable[[Any], int]:
    """The function from a label to its class: files carry names or, like the hub, numbers."""

    def convert(value: Any) -> int:
        written = as_written(value)
        # true is 1, but not what class 1 of RTE is called
        found = None if is_bool(value) else as_number(value)
        number = names.index(written) if written in names else found
        if not isinstance(number, int) or not 0 <= number < len(names):
            raise UserError(
                f"label {value!r} is unknown: it must be one of {listed(names)}, or a number from "
                f"0 to {len(names) - 1}"
            )
        return number

    return convert


def _test_name(split: str) -> str:
    """Name the test set of a split: validation or test -> test, validation_matched -> matched."""
    return split.partition("_")[2] or "test"
