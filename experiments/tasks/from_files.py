"""Give tasks that read files their common options: how the files are written, what is held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from annotated_types import Gt, Lt
from pydantic import BeforeValidator

from bilevel.errors import UserError
from bilevel.settings import Count
from bilevel.views import taken
from experiments.tasks.reading.dialect import Dialect
from experiments.tasks.reading.file_rows import FileRows
from experiments.tasks.reading.files import SUFFIXES, Row, read_rows
from experiments.tasks.reading.source_names import SourceNames, source_files
from experiments.tasks.reading.splits import SplitFiles, named_splits, own_splits
from experiments.tasks.sources import Sourced

__all__ = [
    "HELD_OUT",
    "ColumnName",
    "FromFiles",
    "Holdout",
    "LabelledFiles",
    "check_distinct",
    "held_out",
]

T = TypeVar("T")

# What task.streaming=true does not go with: null or 0 leaves them out.
WHOLE = (
    *("holdout", "max_train", "sources", "keep_sources", "drop_sources", "source_weights"),
    *("trusted", "label_noise"),
)
HELD_OUT = "train_share"  # the source of a test set that is a share of the training file


def _name(value: object) -> object:
    """A column may be called 0, which YAML reads as a number."""
    return str(value) if type(value) is int else value


ColumnName = Annotated[str, BeforeValidator(_name)]
Holdout = Annotated[float, Gt(0), Lt(1)]


@dataclass(frozen=True, kw_only=True)
class FromFiles(Sourced):
    """Base of tasks that read files.

    Raises:
        UserError: there is no such encoding, the delimiter is no single character, or sources are
            named twice over.
    """

    encoding: str | None = None
    """Of text files: latin-1, cp1252, utf-16, ...; null for UTF-8, with or without a byte-order
    mark."""
    delimiter: str | None = None
    """What parts the columns of csv and tsv files (comma, semicolon, tab, pipe, space, or one
    character), and the words and tags of CoNLL files; null: as the file's name says."""
    quoting: bool | None = None
    """Quotation marks enclose cells of csv and tsv files; null: they do, but for tabs in .tsv."""

    sources: dict[str, str] | None = None
    """Several training files in the place of the folder's own, each a source of its name:
    {clean: FILE, web: FILE}, as paths or as they are called in the folder; null: the training file.
    """

    streaming: bool = False
    """Read the training data anew in each pass and hold none of them, neither in memory nor on the
    disk; tests and validation data are held."""
    shuffle_buffer: Count = 10_000
    """With streaming, how many training examples are shuffled with one another."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.dialect
        self._check_streaming()
        option, column = self.source_names_in
        if self.sources is None:
            return
        if column is not None:
            raise UserError(
                f"task.{option}={column} and task.sources both name the sources: give one of them"
            )
        if not self.sources or not all(name.strip() for name in self.sources):
            raise UserError(
                f"task.sources={self.sources}: this must be names, none of them empty, each with a "
                "file, like {clean: FILE, web: FILE}"
            )

    def _check_streaming(self) -> None:
        """Refuse what needs all training examples at once."""
        option, _ = self.source_names_in
        for name in (*WHOLE, option) if self.streaming else ():
            if name in vars(self) and vars(self)[name] not in (None, 0):
                raise UserError(
                    f"task.{name}={vars(self)[name]} needs all training examples at once, and "
                    "task.streaming=true holds none of them: leave one of them out"
                )

    def read(self, path: Sequence[Path], *, trained: bool) -> Sequence[Row]:
        """The rows of a split.

        Args:
            path: its files.
            trained: whether it is what is trained on, which may be streamed.

        Raises:
            UserError: as ``read_rows``.
        """
        stream = self.shuffle_buffer if self.streaming and trained else None
        return read_rows(path, self.dialect, stream)

    def from_hub(self, found: Any, split: str, trained: str | None = "train") -> Sequence[Any]:
        """The rows of a split of the hub; of what is trained on perhaps as a stream."""
        from experiments.cli import hub

        rows = found[split]
        if not (self.streaming and split == trained):
            return hub.rows(rows)
        return FileRows(lambda: iter(rows), f"the hub's split {split}", stream=self.shuffle_buffer)

    @property
    def dialect(self) -> Dialect:
        """How the text files are written."""
        return Dialect(self.encoding, self.delimiter, self.quoting)

    @property
    def source_names_in(self) -> tuple[str, str | None]:
        """The option that names the column of the sources' names, and that column, if any."""
        return "source_column", None

    @property
    def names_sources(self) -> bool:
        """Whether the training rows' sources are told."""
        return self.sources is not None or self.source_names_in[1] is not None

    @property
    def tests_on_share(self) -> bool:
        """Whether a share of the training files is the test set."""
        return getattr(self, "holdout", None) is not None

    def unsourced(self) -> Self:
        """The same without anything about sources: for scoring, which has nothing to train on.

        But for the files of which a share is the test set.
        """
        option, column = self.source_names_in
        values: dict[str, Any] = {} if column is None else {option: None}
        if not self.tests_on_share or Path(str(vars(self)["data_dir"])).expanduser().is_file():
            values["sources"] = None
        if values.get("sources", self.sources) is None:
            values |= {"keep_sources": None, "drop_sources": None}
        return replace(self, source_weights=None, **values)

    def check_sources_here(self, data_dir: str | None) -> None:
        """Refuse names of sources for data of the hub.

        Raises:
            UserError: there are some, and no folder.
        """
        if self.names_sources and data_dir is None:
            option = "sources" if self.sources is not None else self.source_names_in[0]
            raise UserError(
                f"task.{option} goes with files of your own: give task.data_dir=DIR, the folder "
                "that is validated and tested on"
            )

    def own_files(self, data_dir: str, suffixes: Sequence[str] = SUFFIXES) -> dict[str, SplitFiles]:
        """The splits of a user's own data; those of `sources` are what is trained on.

        Raises:
            UserError: there is nothing to train on.
        """
        if self.sources is None:
            return own_splits(data_dir, suffixes)
        return {
            **named_splits(data_dir, suffixes),
            "train": self.files_of_sources(data_dir, suffixes),
        }

    def files_of_sources(self, data_dir: str, suffixes: Sequence[str] = SUFFIXES) -> SplitFiles:
        """The files of `sources`.

        Raises:
            UserError: one is missing.
        """
        assert self.sources is not None
        return source_files(self.sources, Path(data_dir).expanduser(), suffixes)

    def source_names(self, data_dir: str | None) -> SourceNames:
        """Where the names of the training rows' sources are."""
        option, column = self.source_names_in
        files: dict[Path, str] = {}
        if self.sources is not None and data_dir is not None:
            paths = source_files(self.sources, Path(data_dir).expanduser(), ("",))
            files = dict(zip(paths, self.sources, strict=True))
        return SourceNames(column, f"task.{option}", files)


@dataclass(frozen=True, kw_only=True)
class LabelledFiles(FromFiles):
    """Base of tasks on files whose rows have an answer that is no text to write."""

    source_column: ColumnName | None = None
    """The column that names the source of each training row; null: there is none."""

    @property
    def source_names_in(self) -> tuple[str, str | None]:
        """``source_column``."""
        return "source_column", self.source_column


def check_distinct(columns: dict[str, str | None]) -> None:
    """Refuse one column in two parts, such as the label among the texts.

    Args:
        columns: option -> the column that it names.

    Raises:
        UserError: two options name one column.
    """
    options: dict[str, str] = {}
    for option, column in columns.items():
        if column is not None and column in options:
            read = all("text_columns" in name for name in (options[column], option))
            why = "" if read else ": what a model reads must not hold what it is to say"
            raise UserError(f"{options[column]} and {option} both name the column {column!r}{why}")
        if column is not None:
            options[column] = option


def held_out(
    examples: Sequence[T], share: float, seed: int, classes: Sequence[int] | None = None
) -> tuple[Sequence[T], Sequence[T]]:
    """Part the examples of a single file into training and test set, both in the file's order.

    Args:
        examples: n of them.
        share: of the test set.
        seed: decides which.
        classes: n class numbers; then both parts have their proportions.

    Raises:
        UserError: one part would be empty.
    """
    from bilevel.data import split

    try:
        tested, trained = split(len(examples), share, seed, classes)
    except UserError as error:
        raise UserError(f"task.holdout={share}: {error}") from error
    return taken(examples, trained), taken(examples, tested)
