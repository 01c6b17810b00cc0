"""Read the user's own tagged words: named entities and the like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bilevel.errors import UserError
from experiments.metrics.tags import TAG_METRICS, check_installed
from experiments.tasks.examples import TaggedExample
from experiments.tasks.reading.files import find_split
from experiments.tasks.reading.iob import tag_names, to_iob2
from experiments.tasks.reading.sentences import SUFFIXES, read_sentences
from experiments.tasks.task import Length, Subset

if TYPE_CHECKING:
    from experiments.tasks.kinds.tags import TaggedData

__all__ = ["Tagging"]


@dataclass(frozen=True)
class Tagging(Subset):
    """Entities in sentences, on files train, validation and/or test in a folder.

    The test set is the test file if there is one, else the validation file. Where there are both,
    the validation file is D_val of methods with ``method.split=null``. The types of entities are
    those of the training file.

    Raises:
        UserError: no folder is given, a value is out of range, or the package that scores tags is
            missing.
    """

    data_dir: str | None = None
    """The folder; needed."""
    tokens_column: str = "tokens"
    """The column of lists of words (parquet, jsonl)."""
    tags_column: str = "ner_tags"
    """The column of lists of tags: names, or numbers."""
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

    def load(self) -> TaggedData:
        """Read the files."""
        from experiments.tasks.kinds.tags import TaggedData

        assert self.data_dir is not None
        splits = ("train", "validation", "test")
        train_path, validation_path, test_path = (
            find_split(self.data_dir, split, SUFFIXES) for split in splits
        )
        held_out = test_path or validation_path
        if train_path is None or held_out is None:
            missing = "train" if train_path is None else "test or validation"
            raise UserError(
                f"task.data_dir={self.data_dir} has no file {missing} ({', '.join(SUFFIXES)})"
            )
        train = self._examples(train_path)
        names = tag_names(example.tags for example in train)
        if len(names) == 1:
            raise UserError(f"{train_path} has no entity: every tag is O")
        tests = self._examples(held_out, names)
        validation = None
        if test_path is not None and validation_path is not None:
            validation = self._examples(validation_path, names)
        return TaggedData(
            name=self.name,
            train=self.kept_train(train),
            tests={"test": self.kept_test(tests)},
            test_source="validation" if test_path is None else "test",
            metrics=tuple(TAG_METRICS),
            max_length=self.max_length,
            validation=validation,
            tag_names=names,
        )

    def _examples(self, path: Path, known: Sequence[str] | None = None) -> list[TaggedExample]:
        """The sentences of a file; their tags must be among those ``known``, if given."""
        examples = []
        columns = self.tokens_column, self.tags_column
        for sentence in read_sentences(path, columns, self.tag_names or ()):
            tags = to_iob2(sentence.tags, self.scheme, sentence.place)
            for number, tag in enumerate(tags):
                if known is not None and tag not in known:
                    types = ", ".join(name[2:] for name in known if name.startswith("B-"))
                    raise UserError(
                        f"{sentence.place(number)} has the tag {tag!r}, of a type that the "
                        f"training data has not: its types are {types}"
                    )
            examples.append(TaggedExample(sentence.words, tags))
        return examples
