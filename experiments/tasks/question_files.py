"""Give tasks of questions their files: what is trained on, validated on and tested on."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from bilevel.errors import UserError
from experiments.tasks.from_files import HELD_OUT, Holdout, LabelledFiles, held_out
from experiments.tasks.label_trust import TrustedFile
from experiments.tasks.reading.files import Row
from experiments.tasks.reading.splits import SplitFiles, no_test, nothing_to_hold_out, scored_splits
from experiments.tasks.task import Length, TaskData

__all__ = ["QuestionFiles"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class QuestionFiles(TrustedFile, LabelledFiles):
    """Base of tasks of questions on files train, validation and/or test in a folder.

    The test set is the test file if it has answers, else the validation file, else (with
    ``holdout``) a share of the training file.

    Raises:
        UserError: no folder is given, or a value is out of range.
    """

    data_dir: str | None = None
    """The folder, or with holdout the one file; needed."""
    holdout: Holdout | None = None
    """The share of a single file that becomes the test set; which follows from subset_seed, and
    questions on the same text, or equal ones on none, are in the same part. null: there is a file
    to test on."""
    max_length: Length = 384
    """Tokens at most that the model is given at once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data_dir:
            raise UserError(f"task={self.name} needs task.data_dir=DIR")
        if self.streaming:
            raise UserError(
                f"task.streaming=true: questions are held in memory (task={self.name}): use false"
            )

    @abstractmethod
    def _rows(self, paths: SplitFiles) -> Sequence[Row]:
        """The rows of files."""

    @abstractmethod
    def _answered(self, rows: Sequence[Row]) -> bool:
        """Whether the rows say their answers."""

    @abstractmethod
    def _examples(self, rows: Sequence[Row], where: str, names: Sequence[str] | None) -> list[Any]:
        """The examples of rows; ``names`` are what the training data call answers, if anything."""

    @abstractmethod
    def _names(self, rows: Sequence[Row], where: str) -> Sequence[str] | None:
        """What training rows call answers; None where they are texts."""

    def _names_to_score(
        self, rows: Sequence[Row], where: str, names: Sequence[str] | None
    ) -> Sequence[str] | None:
        """What test rows without training rows call answers; ``names`` are the run's."""
        return names

    @abstractmethod
    def _text(self, example: Any) -> str:
        """The text that an example's question is on; without one, all of the question."""

    @abstractmethod
    def _data(self, names: Sequence[str] | None, **values: Any) -> TaskData:
        """The kind of data."""

    def load(self) -> TaskData:
        """Read the files."""
        assert self.data_dir is not None
        return self._load(self.own_files(self.data_dir), None, trained=True)

    def to_score(self, labels: Sequence[str] | None) -> TaskData:
        """As :meth:`load`, without a training file if there is none."""
        assert self.data_dir is not None
        if self != (plain := self.unsourced()):
            return plain.to_score(labels)
        files = scored_splits(self.data_dir)
        if self.holdout is not None or not files or "train" in files:
            return self.load()
        return self._load(files, labels, trained=False)

    def scored_whole(self) -> Self:
        """Without ``holdout``."""
        return replace(self, holdout=None)

    def _load(
        self, files: dict[str, SplitFiles], names: Sequence[str] | None, *, trained: bool
    ) -> TaskData:
        assert self.data_dir is not None
        train: list[Any] = []
        rows: Sequence[Row]
        if trained:
            where, rows = str(files["train"]), self._rows(files["train"])
            rows = self.source_names(self.data_dir).put_on(rows, where)
            names = self._names(rows, where)
            train = self._examples(rows, where, names)
        every = train
        tested = self._to_test(files)
        source = next(iter(tested), HELD_OUT)
        if self.holdout is not None:
            if source != HELD_OUT:
                raise nothing_to_hold_out(self.holdout, files[source])
            train, tests = self._held_out(every, self.holdout)
            self.check_sources_left(every, train, f"task.holdout={self.holdout}")
        elif source == HELD_OUT:
            raise no_test(self.data_dir)
        else:
            rows, where = tested.pop(source), str(files[source])
            if not trained:
                names = self._names_to_score(rows, where, names)
            tests = self._examples(rows, where, names)
        validation = None
        if "validation" in tested:
            validation = self._examples(tested["validation"], str(files["validation"]), names)
        if self.trusted_file is not None and trained:
            path = self.trusted_path(validation)
            validation = self._examples(self._rows(path), str(path), names)
        found = self._data(
            names,
            train=self.kept_train(train, before=every),
            train_source="train" if trained else None,
            tests={"test": self.kept_test(tests)},
            test_source=source,
            validation=validation,
        )
        return self.with_trust(found)

    def _to_test(self, files: dict[str, SplitFiles]) -> dict[str, Sequence[Row]]:
        """Rows of the splits test and validation that have answers; the first is the test set."""
        found: dict[str, Sequence[Row]] = {}
        for split in ("test", "validation"):
            if split not in files:
                continue
            rows = self._rows(files[split])
            if self._answered(rows) or (split == "validation" and not found):
                found[split] = rows
            elif split == "test" and "validation" in files:
                log.warning("%s has no answers: the validation file is the test set", files[split])
            elif split == "test":
                found[split] = rows  # what is missing is told where it is read
            else:
                log.warning("%s has no answers, so there is no validation data", files[split])
        return found

    def _held_out(self, examples: list[Any], share: float) -> tuple[list[Any], list[Any]]:
        """Training and test examples, those on one text in one part."""
        texts = list(dict.fromkeys(self._text(example) for example in examples))
        _, tested = held_out(texts, share, self.subset_seed)
        apart = set(tested)
        train = [example for example in examples if self._text(example) not in apart]
        return train, [example for example in examples if self._text(example) in apart]
