"""Read the user's own tagged words: named entities and the like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from bilevel.errors import UserError, listed
from experiments.metrics.tags import TAG_METRICS, check_installed
from experiments.stored_data.spool import from_rows, held
from experiments.tasks.examples import TaggedExample
from experiments.tasks.from_files import (
    HELD_OUT,
    ColumnName,
    Holdout,
    LabelledFiles,
    check_distinct,
    held_out,
)
from experiments.tasks.inputs import Inputs, word_inputs
from experiments.tasks.label_trust import TrustedFile
from experiments.tasks.odd_labels import say_look_alikes
from experiments.tasks.reading.iob import tag_names, to_iob2
from experiments.tasks.reading.lines import DEFAULTS
from experiments.tasks.reading.row import check_columns
from experiments.tasks.reading.sentences import (
    ROWS,
    SUFFIXES,
    Sentence,
    read_sentences,
    sentence_of_row,
)
from experiments.tasks.reading.source_names import SourceNames
from experiments.tasks.reading.splits import SplitFiles, no_test, nothing_to_hold_out, scored_splits
from experiments.tasks.task import Length, TaskData, no_examples

if TYPE_CHECKING:
    from experiments.tasks.kinds.tags import TaggedData

__all__ = ["Tagging"]


@dataclass(frozen=True)
class Tagging(TrustedFile, LabelledFiles):
    """Entities in sentences, on files train, validation and/or test in a folder.

    The test set is the test file if there is one, else the validation file, else (with ``holdout``)
    a share of the training file. Where there are both,
    the validation file is D_val of methods with ``method.split=null``. The types of entities are
    those of the training file.

    Raises:
        UserError: no folder is given, a value is out of range, or the package that scores tags is
            missing.
    """

    data_dir: str | None = None
    """The folder, or with holdout the one file; needed."""
    tokens_column: ColumnName = DEFAULTS[0]
    """The column of lists of words (parquet, json); in files of lines the position of the words,
    from 0, which is where they are unless this says otherwise."""
    tags_column: ColumnName = DEFAULTS[1]
    """The column of lists of tags: names, or numbers; in files of lines the position of the tags,
    -1 for the last, which is where they are unless this says otherwise."""
    holdout: Holdout | None = None
    """The share of a single file that becomes the test set; which sentences follows from
    subset_seed. null: there is a file to test on."""
    tag_names: tuple[str, ...] | None = None
    """The tags in the order of their numbers, [O,B-TYPE,I-TYPE,...]; null: the files hold names."""
    scheme: Literal["iob2", "iob1"] = "iob2"
    """How the files mark entities; iob1 is converted to iob2."""
    max_length: Length = 512
    """Tokens of a sentence at most; the words of a test beyond it count as O."""
    name: str = "tagging"
    """The task's name in results."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_installed()
        if not self.data_dir:
            raise UserError(f"task={self.name} needs task.data_dir=DIR")
        names = self.tag_names or ()
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise UserError(f"task.tag_names has {twice[0]!r} twice: each number has its own tag")
        check_distinct(
            {"task.tokens_column": self.tokens_column, "task.tags_column": self.tags_column}
        )

    def load(self) -> TaggedData:
        """Read the files."""
        assert self.data_dir is not None
        return self._load(self.own_files(self.data_dir, SUFFIXES), None)

    def to_score(self, labels: Sequence[str] | None) -> TaggedData:
        """As :meth:`load`; without a training file, the tags are ``labels``."""
        assert self.data_dir is not None
        if self != (plain := self.unsourced()):
            return plain.to_score(labels)
        files = scored_splits(self.data_dir, SUFFIXES)
        if self.holdout is not None or not files or "train" in files or labels is None:
            return self.load()
        return self._load(files, tuple(labels))

    def scored_whole(self) -> Tagging:
        """Without ``holdout``."""
        return replace(self, holdout=None)

    def inputs(self) -> Inputs:
        """The words."""
        return word_inputs(self.tokens_column, self.dialect)

    def to_predict(self, labels: Sequence[str] | None) -> TaskData:
        """The tags alone; no file is read where the run names them."""
        from experiments.tasks.kinds.tags import TaggedData

        if labels is None:
            return super().to_predict(labels)
        return TaggedData(
            name=self.name,
            **no_examples(),
            metrics=tuple(TAG_METRICS),
            max_length=self.max_length,
            tag_names=tuple(labels),
        )

    def _load(self, files: dict[str, SplitFiles], known: tuple[str, ...] | None) -> TaggedData:
        from experiments.tasks.kinds.tags import TaggedData

        assert self.data_dir is not None
        source = next((split for split in ("test", "validation") if split in files), HELD_OUT)
        if self.holdout is None and source == HELD_OUT:
            raise no_test(self.data_dir, SUFFIXES)
        train: Sequence[TaggedExample] = []
        if known is None:
            train = self._examples(files["train"], sources=self.source_names(self.data_dir))
        names = known or tag_names(example.tags for example in train)
        if len(names) == 1:
            raise UserError(f"{files['train']} has no entity: every tag is O")
        if known is None:
            say_look_alikes([name[2:] for name in names if name[:2] == "B-"], str(files["train"]))
        every, validation = train, None
        if self.holdout is None:
            tests = self._examples(files[source], names)
            if source == "test" and "validation" in files:
                validation = self._examples(files["validation"], names)
        elif source == HELD_OUT:
            train, tests = held_out(every, self.holdout, self.subset_seed)
            self.check_sources_left(every, train, f"task.holdout={self.holdout}")
        else:
            raise nothing_to_hold_out(self.holdout, files[source])
        if self.trusted_file is not None and known is None:
            validation = self._examples(self.trusted_path(validation), names)
        found = TaggedData(
            name=self.name,
            train=self.kept_train(train, before=every),
            train_source="train" if known is None else None,
            tests={"test": self.kept_test(tests)},
            test_source=source,
            metrics=tuple(TAG_METRICS),
            max_length=self.max_length,
            validation=validation,
            tag_names=names,
        )
        return self.with_trust(found)

    def _examples(
        self,
        paths: SplitFiles,
        known: Sequence[str] | None = None,
        sources: SourceNames | None = None,
    ) -> Sequence[TaggedExample]:
        """The sentences of a split; their tags must be among those ``known``, if given."""
        columns = self.tokens_column, self.tags_column

        def made(sentence: Sentence) -> TaggedExample:
            tags = to_iob2(sentence.tags, self.scheme, sentence.place)
            for number, tag in enumerate(tags):
                if known is not None and tag not in known:
                    types = ", ".join(name[2:] for name in known if name.startswith("B-"))
                    raise UserError(
                        f"{sentence.place(number)} has the tag {tag!r}, of a type that the "
                        f"training data has not: its types are {types}"
                    )
            return TaggedExample(sentence.words, tags, sentence.origin)

        names = self.tag_names or ()
        if self.streaming and known is None:
            return self._streamed(paths, columns, made)
        return held(map(made, read_sentences(paths, columns, names, self.dialect, sources)))

    def _streamed(
        self,
        paths: SplitFiles,
        columns: tuple[str, str],
        made: Callable[[Sentence], TaggedExample],
    ) -> Sequence[TaggedExample]:
        """The sentences of the training files, read as they are trained on."""
        for path in paths:
            if not path.name.lower().removesuffix(".gz").endswith(ROWS):
                raise UserError(
                    f"task.streaming=true reads rows ({listed(ROWS)}), and {path} has a word a line"
                )
        where, names = str(paths), self.tag_names or ()
        rows = self.read(paths, trained=True)
        check_columns(rows, columns, where)
        return from_rows(
            rows, lambda i, row: [made(sentence_of_row(row, i, columns, names, where))], where
        )
