"""The user's own tagged words: named entities and the like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bilevel.errors import UserError
from experiments.metrics.tags import TAG_METRICS, check_installed
from experiments.tasks.kinds.tags import TaggedData, TaggedExample
from experiments.tasks.reading.files import find
from experiments.tasks.reading.iob import SCHEMES, tag_names, to_iob2
from experiments.tasks.reading.sentences import SUFFIXES, read_sentences
from experiments.tasks.task import Task, check_length, choose

__all__ = ["Tagging"]


class Tagging(Task):
    """Entities in sentences, on files train, validation and/or test in a folder.

    The test set is the test file if there is one, else the validation file. Where there are both,
    the validation file is D_val of methods with ``method.split=null``. The types of entities are
    those of the training file.

    Args:
        data_dir: the folder.
        tokens_column: lists of words (parquet, jsonl).
        tags_column: lists of tags, names or numbers.
        tag_names: the tags in the order of their numbers; None where the files hold names.
        scheme: iob2, or iob1, which is converted to IOB2.
        max_train: training sentences at most, None for all.
        max_test: test sentences at most, None for all.
        max_length: tokens of a sentence at most.
        subset_seed: decides which sentences max_train and max_test keep.
        name: the task's name in results.
    """

    def __init__(
        self,
        data_dir: str | None,
        tokens_column: str = "tokens",
        tags_column: str = "ner_tags",
        tag_names: Sequence[str] | None = None,
        scheme: str = "iob2",
        max_train: int | None = None,
        max_test: int | None = None,
        max_length: int = 512,
        subset_seed: int = 0,
        name: str = "tagging",
    ) -> None:
        check_installed()
        if not data_dir:
            raise UserError(f"task={name} needs task.data_dir=DIR")
        if scheme not in SCHEMES:
            raise UserError(f"task.scheme={scheme} is unknown: allowed are {', '.join(SCHEMES)}")
        self.data_dir = data_dir
        self.columns = (tokens_column, tags_column)
        self.tag_names = tuple(tag_names or ())
        self.scheme = scheme
        self.max_train = max_train
        self.max_test = max_test
        check_length(max_length)
        self.max_length = max_length
        self.subset_seed = subset_seed
        self.name = name

    def load(self) -> TaggedData:
        """Read the files."""
        splits = ("train", "validation", "test")
        train_path, validation_path, test_path = (
            find(self.data_dir, split, SUFFIXES) for split in splits
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
            train=choose(train, self.max_train, self.subset_seed, "task.max_train"),
            tests={"test": choose(tests, self.max_test, self.subset_seed, "task.max_test")},
            test_source="validation" if test_path is None else "test",
            metrics=tuple(TAG_METRICS),
            max_length=self.max_length,
            validation=validation,
            tag_names=names,
        )

    def _examples(self, path: Path, known: Sequence[str] | None = None) -> list[TaggedExample]:
        """The sentences of a file; their tags must be among those ``known``, if given."""
        examples = []
        for sentence in read_sentences(path, self.columns, self.tag_names):
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
