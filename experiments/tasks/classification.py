"""Read the user's own files of one or two text columns and a label column: classes or numbers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Gt, Lt

from bilevel.errors import UserError, listed
from experiments.answers import CLASSES, LABELS, NUMBER
from experiments.metrics.labels import LABEL_SET_METRICS, USUAL, check_metrics
from experiments.metrics.names import check_names
from experiments.stored_data.parts import column
from experiments.tasks.examples import Example, LabelSetExample
from experiments.tasks.from_files import (
    HELD_OUT,
    ColumnName,
    Holdout,
    LabelledFiles,
    check_distinct,
    held_out,
)
from experiments.tasks.inputs import Inputs, text_inputs
from experiments.tasks.label_marks import MARKED, put_labels
from experiments.tasks.label_sets import label_classes, label_sets
from experiments.tasks.label_trust import TrustedFile
from experiments.tasks.odd_labels import (
    check_classes,
    say_look_alikes,
    say_odd_numbers,
    say_unseen,
)
from experiments.tasks.reading.files import Row, read_rows
from experiments.tasks.reading.labels import Classes, class_numbers, is_labelled, regression_target
from experiments.tasks.reading.row import check_columns, columns_of
from experiments.tasks.reading.rows import examples
from experiments.tasks.reading.spelling import look_alike
from experiments.tasks.reading.splits import SplitFiles, no_test, nothing_to_hold_out, scored_splits
from experiments.tasks.task import Length, TaskData, no_examples

if TYPE_CHECKING:
    from experiments.tasks.kinds.labelled import LabelledData

__all__ = ["Classification"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Classification(TrustedFile, LabelledFiles):
    """Text classification (or regression) on files train, validation and/or test in a folder.

    The test set is the test file if there is one with labels, else the validation file, else (with
    ``holdout``) a share of the training file; `TaskData.test_source` says which. A validation file
    beside a labelled test file is `TaskData.validation`, what is chosen by. The classes are those
    of the training file.
    """

    data_dir: str | None = None
    """The folder, or with holdout the one file; needed."""
    text_columns: tuple[ColumnName, ...] | ColumnName | None = None
    """One or two column names, [one] or [first,second]; needed."""
    label_column: ColumnName | None = "label"
    """The column whose values, names or numbers, are to be predicted."""
    holdout: Holdout | None = None
    """The share of a single file that becomes the test set, in the classes' proportions; which
    rows follows from subset_seed. null: there is a file to test on."""
    multi_label: bool = False
    """Each text has any number of labels: lists (parquet, jsonl), or texts with label_separator."""
    label_separator: str | None = None
    """With multi_label, what stands between the labels in a cell, ";" for one; null: lists."""
    label_columns: tuple[ColumnName, ...] | None = None
    """With multi_label, a column of 0 and 1 for each label, [toxic,insult], in the place of
    label_column; the columns' names are the labels."""
    threshold: Annotated[float, Gt(0), Lt(1)] | Literal["validation"] = 0.5
    """With multi_label, the probability above which a label is said; validation: the one with the
    best primary metric on the validation data, chosen when the training is over."""
    true_label_column: ColumnName | None = None
    """A column of the right labels, where they are known and label_column's may be wrong: for the
    report of experiments.suspects alone, nothing is trained or scored by it."""
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
                raise UserError(f"task={self.name} needs task.{option}{self._known_columns()}")
        if not 1 <= len(self.columns) <= 2:
            raise UserError(
                f"task.text_columns must name one or two columns, not {len(self.columns)}"
            )
        texts = {f"task.text_columns[{i}]": column for i, column in enumerate(self.columns)}
        check_distinct({**texts, **self._label_options()})
        if self.regression and self.multi_label:
            raise UserError("task.regression=true and task.multi_label=true exclude each other")
        if self.label_separator is not None and not (self.multi_label and self.label_separator):
            raise UserError(
                f"task.label_separator={self.label_separator!r}: this must be a text, and goes "
                "with task.multi_label=true"
            )
        for option, given in (("label_columns", self.label_columns), ("threshold", self.threshold)):
            if given not in (None, 0.5) and not self.multi_label:
                raise UserError(f"task.{option} goes with task.multi_label=true")
        if self.label_columns is not None and len(self.label_columns) < 2:
            raise UserError("task.label_columns names two or more columns, [toxic,insult]")
        if self.label_columns is not None and self.label_separator is not None:
            raise UserError("task.label_columns and task.label_separator exclude each other")
        if self.true_label_column is not None and self.true_label_column == self.label_column:
            raise UserError(
                f"task.true_label_column={self.true_label_column} is task.label_column: give the "
                "column of the labels that are known to be right, or leave it out"
            )
        if self.true_label_column is not None and self.multi_label:
            raise UserError(
                f"task.true_label_column={self.true_label_column} is for one label a text, and "
                "task.multi_label=true has several: leave it at null"
            )
        if self.multi_label:
            check_names(self.scores, LABEL_SET_METRICS, "task.metrics")
        else:
            check_metrics(self.scores, 1 if self.regression else None)

    def _known_columns(self) -> str:
        """Which columns could be named, where there is a training file to tell."""
        if self.data_dir is None:
            return ""
        path = self.own_files(self.data_dir)["train"]
        names = columns_of(read_rows(path, self.dialect))
        return f": the columns of {path} are {listed(map(repr, names))}"

    def _label_options(self) -> dict[str, str | None]:
        """Option -> the column that it names."""
        if self.label_columns is None:
            return {"task.label_column": self.label_column}
        return {f"task.label_columns[{i}]": name for i, name in enumerate(self.label_columns)}

    @property
    def _label(self) -> str:
        """Where the labels are in rows."""
        return str(self.label_column) if self.label_columns is None else MARKED

    def _rows(self, path: SplitFiles, *, trained: bool = False) -> Sequence[Row]:
        """The rows of a split."""
        rows = self.read(path, trained=trained)
        if self.label_columns is not None:
            rows = put_labels(rows, self.label_columns, str(path))
        return rows

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of texts."""
        columns = self.text_columns or ()
        return (columns,) if isinstance(columns, str) else columns

    @property
    def scores(self) -> tuple[str, ...]:
        """The metrics, the primary one first."""
        kind = LABELS if self.multi_label else NUMBER if self.regression else CLASSES
        return USUAL[kind] if self.metrics is None else self.metrics

    def load(self) -> LabelledData:
        """Read the training file and the test (or validation) file."""
        assert self.data_dir is not None
        return self._load(self.own_files(self.data_dir), None)

    def to_score(self, labels: Sequence[str] | None) -> LabelledData:
        """As :meth:`load`; without a training file, the classes are ``labels``."""
        assert self.data_dir is not None
        if self != (plain := self.unsourced()):
            return plain.to_score(labels)
        files = scored_splits(self.data_dir)
        known = self.regression or labels is not None
        if self.holdout is not None or not files or "train" in files or not known:
            return self.load()
        return self._load(files, labels or ())

    def scored_whole(self) -> Classification:
        """Without ``holdout``."""
        return replace(self, holdout=None)

    def inputs(self) -> Inputs:
        """The texts."""

        def example(texts: tuple[str, ...]) -> Example | LabelSetExample:
            return LabelSetExample(texts, ()) if self.multi_label else Example(texts, 0)

        return text_inputs(self.columns, example, self.dialect, self.label_separator)

    def to_predict(self, labels: Sequence[str] | None) -> TaskData:
        """The classes alone; no file is read where the run names them."""
        if labels is None and not self.regression:
            return super().to_predict(labels)
        names = None if labels is None else list(labels)
        return self._data(**no_examples(), label_names=names)

    def _data(self, **values: Any) -> LabelledData:
        """The data of the task's kind, with its name, metrics and lengths."""
        from experiments.tasks.kinds.label_sets import LabelSetData
        from experiments.tasks.kinds.labelled import LabelledData

        shared: dict[str, Any] = {
            "name": self.name,
            "metrics": self.scores,
            "max_length": self.max_length,
        }
        if not self.multi_label:
            return LabelledData(**shared, **values)
        threshold = self.threshold if isinstance(self.threshold, float) else None
        return LabelSetData(**shared, **values, threshold=threshold)

    def _load(self, files: dict[str, SplitFiles], known: Sequence[str] | None) -> LabelledData:
        assert self.data_dir is not None
        label = self._label
        train: Sequence[Any]
        if known is None:
            where = str(files["train"])
            rows = self._rows(files["train"], trained=True)
            rows = self.source_names(self.data_dir).put_on(rows, where)
            read, names = self._reader(rows, where)
            train = read(rows, where)
            self._say_odd(train, names, where)
            if self.true_label_column is not None:
                check_columns(rows, [self.true_label_column], where)
        else:
            train = []
            read, names = self._reading(Classes.of(known))
        splits = {
            split: read(found, str(files[split]))
            for split, found in self._to_test(files, label).items()
        }

        def numbers(found: Sequence[Any]) -> list[int] | None:
            whole = self.regression or self.multi_label
            return None if whole else column(found, "label")

        every = train
        if splits:
            source = next(iter(splits))
            test = splits.pop(source)
        elif self.holdout is not None:
            source = HELD_OUT
            train, test = held_out(every, self.holdout, self.subset_seed, numbers(every))
            self.check_sources_left(every, train, f"task.holdout={self.holdout}")
        else:
            raise self._no_test(files)
        if self.trusted_file is not None and known is None:
            path = self.trusted_path(splits.get("validation"))
            splits["validation"] = read(self._rows(path), str(path))
        found = self._data(
            train=self.kept_train(train, numbers(train), every),
            train_source="train" if known is None else None,
            tests={"test": self.kept_test(test, numbers(test))},
            test_source=source,
            label_names=names,
            validation=splits.get("validation"),
        )
        found = self.with_trust(found)
        if known is None and names is not None and not self.multi_label:
            where = f"what is trained on of {files['train']}"
            say_unseen(names, set(column(found.train, "label")), where)
        return found

    def _reader(
        self, rows: Sequence[Row], where: str
    ) -> tuple[Callable[[Sequence[Row], str], Sequence[Any]], list[str] | None]:
        """What makes examples of rows, and the names of the training rows' classes."""
        label = self._label
        if self.regression:
            return self._reading(Classes.of([]))
        if self.label_columns is not None:
            check_columns(rows, self.label_columns, where)
            return self._reading(Classes(self.label_columns, False))
        if self.multi_label:
            return self._reading(label_classes(rows, label, self.label_separator, where))
        return self._reading(class_numbers(rows, label, where))

    def _reading(
        self, classes: Classes
    ) -> tuple[Callable[[Sequence[Row], str], Sequence[Any]], list[str] | None]:
        """As :meth:`_reader`, of known classes; regression has none."""
        label, apart = self._label, self.label_separator
        if self.multi_label:
            return (
                lambda found, place: label_sets(found, self.columns, label, apart, classes, place)
            ), classes.names
        convert: Callable[[Any], int | float] = regression_target
        names = None
        if not self.regression:
            convert, names = classes.number, classes.names
            check_metrics(self.scores, len(names))
        return lambda found, place: self._examples(found, convert, place), names

    def _examples(
        self, rows: Sequence[Row], convert: Callable[[Any], int | float], where: str
    ) -> Sequence[Example]:
        true = self.true_label_column
        here = true is not None and true in columns_of(rows)  # perhaps of one split alone
        column = true if here else None
        return examples(rows, self.columns, str(self.label_column), convert, where, column)

    def _say_odd(self, train: Sequence[Any], names: list[str] | None, where: str) -> None:
        if names is None:
            say_odd_numbers(column(train, "label"), where)
        elif self.multi_label:
            say_look_alikes(names, where)
        else:
            check_classes(names, column(train, "label"), where)

    def _to_test(self, files: dict[str, SplitFiles], label: str) -> dict[str, Sequence[Row]]:
        """Rows of the splits test and validation that have labels; the first is the test set."""
        found: dict[str, Sequence[Row]] = {}
        for split in ("test", "validation"):
            if split not in files:
                continue
            path = files[split]
            rows = self._rows(path)
            # Alone, a validation file is the test set: what is wrong with its labels is told there.
            alone = split == "validation" and not found
            spelled = label not in rows[0] and look_alike(label) in map(look_alike, rows[0])
            if is_labelled(rows, label) or alone or spelled:
                found[split] = rows
            elif split == "test":
                other = "validation file" if "validation" in files else "held-out share"
                if "validation" in files or self.holdout is not None:
                    log.warning("%s has no labels: the %s is the test set", path, other)
            else:
                log.warning("%s has no labels, so there is no validation data", path)
        if found and self.holdout is not None:
            raise nothing_to_hold_out(self.holdout, files[next(iter(found))])
        return found

    def _no_test(self, files: dict[str, SplitFiles]) -> UserError:
        assert self.data_dir is not None
        if "test" not in files:
            return no_test(self.data_dir)
        return UserError(
            f"task.data_dir={self.data_dir} has neither a labelled test file nor a validation file "
            f"to test on ({files['test']} has no labels): task.holdout=0.2 makes a fifth of the "
            "training file the test set"
        )
