"""Praise and blame in made-up sentences: needs no data and no hub."""

from __future__ import annotations

from dataclasses import dataclass

from bilevel.errors import UserError
from experiments.metrics.tags import TAG_METRICS, check_installed
from experiments.tasks.kinds.tags import TaggedData, TaggedExample
from experiments.tasks.made_up.opinions import TAGS, tagged
from experiments.tasks.task import Task, check_length

__all__ = ["DemoTagging"]


@dataclass(frozen=True)
class DemoTagging(Task):
    """The demo language's sentences, a tag for each word: praise and blame.

    Attributes:
        name: the task's name in results.
        max_train: training sentences.
        max_test: test sentences; none of them is in the training set.
        max_length: tokens of a sentence at most.
        data_seed: decides the sentences.

    Raises:
        UserError: a number that is too small, or the package that scores tags is missing.
    """

    name: str = "demo_tagging"
    max_train: int = 1000
    max_test: int = 300
    max_length: int = 48
    data_seed: int = 0

    def __post_init__(self) -> None:
        check_installed()
        if min(self.max_train, self.max_test) < 1:
            raise UserError("task.max_train and task.max_test must be at least 1")
        check_length(self.max_length)

    def load(self) -> TaggedData:
        """Make the sentences."""
        train = tagged(self.max_train, 2 * self.data_seed)
        known = set(train)
        # Short sentences recur: make some more, and leave out those that training has.
        spare = tagged(self.max_test + self.max_test // 2 + 50, 2 * self.data_seed + 1)
        test = [example for example in spare if example not in known][: self.max_test]
        return TaggedData(
            name=self.name,
            train=[TaggedExample(*example) for example in train],
            tests={"test": [TaggedExample(*example) for example in test]},
            test_source="grammar",
            metrics=tuple(TAG_METRICS),
            max_length=self.max_length,
            tag_names=TAGS,
        )
