"""Give tasks of written text what they share: where rows come from, what becomes of each split."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from bilevel.errors import UserError
from bilevel.settings import Count
from experiments.answers import Decoding
from experiments.metrics.names import check_names
from experiments.metrics.text import TEXT_METRICS, Tokenization
from experiments.stored_data.spool import from_rows
from experiments.tasks.examples import TextExample
from experiments.tasks.from_files import HELD_OUT, ColumnName, FromFiles
from experiments.tasks.inputs import Inputs
from experiments.tasks.reading.file_rows import among
from experiments.tasks.reading.files import Row, is_missing
from experiments.tasks.reading.row import check_columns, origin_of, place_of
from experiments.tasks.reading.rows import say_odd_texts
from experiments.tasks.reading.splits import find_split, no_split, scored_splits
from experiments.tasks.task import Length, no_examples

if TYPE_CHECKING:
    from experiments.tasks.kinds.text import TextData

__all__ = ["LORA_DECODING", "Generation", "check_metrics", "grouped"]

# Of LoRA's code for E2E, WebNLG and DART (its paper has a length penalty of 0.9 for E2E).
LORA_DECODING = Decoding(beams=10, length_penalty=0.8, no_repeat_ngram=4)

Split = tuple[str, Sequence[Row]]  # where it was read from, for messages, and its rows


@dataclass(frozen=True)
class Generation(FromFiles):
    """Text to text on splits train, validation and test, of a folder or of the hub.

    Rows of a test with the same source are one input with several references. The validation
    split is D_val of methods with ``method.split=null``, unless it is trained or tested on.

    Raises:
        UserError: no place to read from, an unknown metric, a package that one needs is missing
            (now: not after the training), or a number out of range.
    """

    hub_id: ClassVar[str | None] = None  # at `hub.PARQUET`
    test_splits: ClassVar[tuple[str, ...]] = ("test",)  # the first that is there

    name: str = "generation"
    """The task's name in results."""
    data_dir: str | None = None
    """A folder with a file for each split; null for the hub, where it has the data."""
    metrics: tuple[str, ...] = ("bleu",)
    """Scores of written text, the primary one first."""
    tokenization: Tokenization = "auto"
    """How scores cut words: 13a, as the papers' scores of English; intl, other alphabets and
    accents; zh, Chinese; char, each character (Japanese, Thai); auto goes by the script of the
    test's references, and metric_settings in result.json names the choice."""
    decoding: Decoding = field(default_factory=Decoding)
    """How the tests' answers are written."""
    separator: str | None = None
    """Stands between source and target of a causal model; null: its token of the beginning."""
    train_split: Literal["train", "validation"] | None = "train"
    """What is trained on; null for no training data, for method=pretrained."""
    max_length: Length = 512
    """Tokens of source and target together at most (encoder-decoder: of the source)."""
    max_target_length: Count | None = None
    """Tokens of a target at most, longer ones are cut; null refuses those that do not fit."""
    domain_column: ColumnName | None = None
    """The column that names the source of each training row (source_column of other tasks; here a
    source is also what the model reads); null: there is none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data_dir and self.hub_id is None:
            raise UserError(f"task={self.name} needs task.data_dir=DIR, a folder with its files")
        check_metrics(self.metrics)
        self.check_sources_here(self.data_dir)

    @property
    def source_names_in(self) -> tuple[str, str | None]:
        """``domain_column``."""
        return "domain_column", self.domain_column

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The columns that every row must have."""

    @abstractmethod
    def read_row(self, row: Row, place: str) -> tuple[str, list[str]] | None:
        """A row's source and its targets; None leaves the row out.

        Args:
            row: it has all of the columns.
            place: where it stands, for messages.

        Raises:
            UserError: the row does not say what it must.
        """

    @property
    def source_columns(self) -> tuple[str, ...]:
        """Those of ``columns`` that the model reads, for predictions; none unless a task says."""
        return ()

    def read_source(self, row: Mapping[str, Any], place: str) -> str:
        """A row's source alone, for predictions; it has all of ``source_columns``.

        Raises:
            UserError: the row does not say what it must.
        """
        raise NotImplementedError

    def inputs(self) -> Inputs:
        """The source."""
        if not self.source_columns:
            raise UserError(
                f"task {self.name} does not say which of its columns are the source: give its "
                "class source_columns and read_source (docs/predict.md)"
            )
        return Inputs(
            self.source_columns,
            lambda row, place: TextExample(self.read_source(row, place), ""),
            dialect=self.dialect,
        )

    def to_predict(self, labels: Sequence[str] | None) -> TextData:
        """How text is written; no file is read."""
        return self._data(**no_examples())

    def _data(self, **values: Any) -> TextData:
        """The data of the task's kind, with what does not depend on examples."""
        return self._kind()(
            name=self.name,
            metrics=self.metrics,
            max_length=self.max_length,
            tokenization=self.tokenization,
            decoding=self.decoding,
            separator=self.separator,
            max_target_length=self.max_target_length,
            **values,
        )

    def _kind(self) -> type[TextData]:
        from experiments.tasks.kinds.text import TextData

        return TextData

    def load(self) -> TextData:
        """Read the splits."""
        splits = self._splits()
        tested = next((name for name in self.test_splits if name in splits), None)
        if tested is None or tested == self.train_split:
            raise self._missing(self.test_splits[0], "the task is scored on it")
        return self._data(
            train=self._train(splits),
            tests={
                name: self.kept_test(examples)
                for name, examples in self.test_sets(*splits[tested]).items()
            },
            test_source=tested,
            train_source=self.train_split,
            validation=self._validation(splits, tested),
        )

    def published(self) -> str | None:
        """`hub_id`, where no folder is read."""
        return None if self.data_dir else self.hub_id

    def to_score(self, labels: Sequence[str] | None) -> TextData:
        """As :meth:`load`; the file to train on may be missing."""
        if self != (plain := self.unsourced()):
            return plain.to_score(labels)
        if self.data_dir and self.train_split is not None and self.sources is None:
            path = Path(self.data_dir).expanduser()
            one = path.is_file() and not self.tests_on_share
            if one or (path.is_dir() and find_split(self.data_dir, self.train_split) is None):
                return replace(self, train_split=None).load()
        return self.load()

    def test_sets(self, where: str, rows: Sequence[Row]) -> dict[str, Sequence[TextExample]]:
        """The test sets in a split, by name."""
        return {"test": grouped(self.pairs(where, rows))}

    def pairs(self, where: str, rows: Sequence[Row]) -> Sequence[TextExample]:
        """Source and target of each row, one pair for each of its targets.

        Raises:
            UserError: a column or a text is missing.
        """
        check_columns(rows, self.columns, where)

        def made(number: int, row: Row) -> list[TextExample]:
            place = place_of(row, number, where)
            for column in self.columns:
                if is_missing(row.get(column)):
                    raise UserError(f"{place} has nothing in column {column!r}")
            entry = self.read_row(row, place)
            if entry is None:
                return []
            source, targets = entry
            if not targets:
                raise UserError(f"{place} has no reference")
            origin = origin_of(row, number, where)
            return [TextExample(source, target, (), origin) for target in targets]

        found = from_rows(rows, made, where)
        if not found:
            raise UserError(f"{where} has no row that can be used")
        say_odd_texts(rows, self.columns, where)
        return found

    def _missing(self, split: str, advice: str) -> UserError:
        if self.data_dir:
            return no_split(self.data_dir, f"of the split {split}", advice=advice)
        return UserError(f"the hub's {self.hub_id} has no split {split}: {advice}")

    def _splits(self) -> dict[str, Split]:
        """The splits that there are, of those that can be of use."""
        wanted = dict.fromkeys([*self.test_splits, "validation"])
        if self.train_split is not None:
            wanted[self.train_split] = None
        if self.data_dir:
            if self.train_split is None and Path(self.data_dir).expanduser().is_file():
                wanted = {}
            paths = {name: find_split(self.data_dir, name) for name in wanted if name != HELD_OUT}
            if self.train_split is None and not any(paths.values()):
                paths = {**scored_splits(self.data_dir)}
            if self.sources is not None and self.train_split == "train":
                paths["train"] = self.files_of_sources(self.data_dir)
            return {
                name: (str(path), self.read(path, trained=name == self.train_split))
                for name, path in paths.items()
                if path
            }
        assert self.hub_id is not None
        from experiments.cli import hub

        found = hub.load(self.hub_id, revision=hub.PARQUET, streaming=self.streaming)
        return {
            name: (f"{self.hub_id}, split {name}", self.from_hub(found, name, self.train_split))
            for name in wanted
            if name in found
        }

    def _train(self, splits: dict[str, Split]) -> Sequence[TextExample]:
        if self.train_split is None:
            return []
        if self.train_split not in splits:
            others = [name for name in ("validation",) if name in splits]
            another = "train on task.train_split=validation, or " if others else ""
            advice = f"{another}score a model as it is by method=pretrained task.train_split=null"
            raise self._missing(self.train_split, advice)
        where, rows = splits[self.train_split]
        if self.names_sources:
            rows = self.source_names(self.data_dir).put_on(rows, where)
        return self.kept_train(self.pairs(where, rows))

    def _validation(self, splits: dict[str, Split], tested: str) -> Sequence[TextExample] | None:
        if self.train_split != "train" or tested == "validation" or "validation" not in splits:
            return None
        return self.pairs(*splits["validation"])

    def _parted(
        self, where: str, rows: Sequence[Row], share: float, option: str
    ) -> dict[str, Split]:
        """Training rows without those that are held out by an option, and these.

        Rows with the same source are in the same part.
        """
        from bilevel.data import split

        if self.names_sources:
            rows = self.source_names(self.data_dir).put_on(rows, where)
        every = self.pairs(where, rows)  # says what is wrong with a row, and where
        distinct: dict[bytes, int] = {}  # of texts, which may be long, a checksum
        sources = []  # of each row, the number of its source
        for row in rows:
            entry = self.read_row(row, where)
            text = None if entry is None else hashlib.sha256(entry[0].encode()).digest()
            sources.append(-1 if text is None else distinct.setdefault(text, len(distinct)))
        chosen = set(split(len(distinct), share, self.subset_seed)[0])
        tested = [source in chosen for source in sources]
        train = among(rows, [not each for each in tested])
        if self.names_sources:
            self.check_sources_left(every, self.pairs(where, train), f"{option}={share}")
        return {"train": (where, train), HELD_OUT: (where, among(rows, tested))}


def grouped(pairs: Sequence[TextExample]) -> Sequence[TextExample]:
    """One example for each source, in the order of its first row, with all targets as references.

    The first target is the one that the loss of the test is of.
    """
    references: dict[str, dict[str, None]] = {}
    for pair in pairs:
        references.setdefault(pair.source, {})[pair.target] = None
    return [TextExample(source, next(iter(t)), tuple(t)) for source, t in references.items()]


def check_metrics(metrics: Sequence[str], option: str = "task.metrics") -> None:
    """Raise UserError for no metric, an unknown one, or one whose package is missing."""
    check_names(metrics, TEXT_METRICS, option)
    for metric in metrics:
        TEXT_METRICS[metric].require_packages()
