"""Make up sentences of praise and blame: needs no data and no hub."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bilevel.settings import Count, Natural
from experiments.metrics.tags import TAG_METRICS, check_installed
from experiments.tasks.examples import Origin, TaggedExample
from experiments.tasks.inputs import Inputs, word_inputs
from experiments.tasks.label_trust import LabelTrust
from experiments.tasks.made_up.opinions import TAGS, tagged
from experiments.tasks.task import Length

if TYPE_CHECKING:
    from experiments.tasks.kinds.tags import TaggedData

__all__ = ["DemoTagging"]


@dataclass(frozen=True)
class DemoTagging(LabelTrust):
    """The demo language's sentences, a tag for each word: praise and blame.

    Raises:
        UserError: a value is out of range, or the package that scores tags is missing.
    """

    name: str = "demo_tagging"
    """The task's name in results."""
    max_train: Count = 1000
    """Training sentences."""
    max_test: Count = 300
    """Test sentences; none of them is in the training set."""
    max_length: Length = 48
    """Tokens of a sentence at most."""
    data_seed: Natural = 0
    """Decides the sentences."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_installed()

    def load(self) -> TaggedData:
        """Make the sentences."""
        from experiments.tasks.kinds.tags import TaggedData

        train = tagged(self.max_train, 2 * self.data_seed)
        known = set(train)
        # Short sentences recur: make some more, and leave out those that training has.
        spare = tagged(self.max_test + self.max_test // 2 + 50, 2 * self.data_seed + 1)
        test = [example for example in spare if example not in known][: self.max_test]
        found = TaggedData(
            name=self.name,
            train=[TaggedExample(*e, Origin(self.name, i)) for i, e in enumerate(train)],
            tests={"test": [TaggedExample(*example) for example in test]},
            test_source="grammar",
            metrics=tuple(TAG_METRICS),
            max_length=self.max_length,
            tag_names=TAGS,
        )
        return self.with_trust(found)

    def inputs(self) -> Inputs:
        """Words, in a column ``tokens``."""
        return word_inputs("tokens")
