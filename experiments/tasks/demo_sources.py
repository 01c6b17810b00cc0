"""Make up sentences with a sentiment from four sources, two of which mislead."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bilevel.settings import Count, Natural
from experiments.tasks.examples import Example, Origin
from experiments.tasks.inputs import Inputs, text_inputs
from experiments.tasks.made_up.grammar import labelled, visits
from experiments.tasks.sources import Sourced
from experiments.tasks.task import Length

if TYPE_CHECKING:
    from experiments.tasks.kinds.labelled import LabelledData

__all__ = ["DemoSources"]


@dataclass(frozen=True, kw_only=True)
class DemoSources(Sourced):
    """The demo language's sentences: clean, with shuffled labels, with all labels flipped, and
    visits, of another domain, which say by what came after them how they were.

    Test and validation are clean; no sentence of the training data is in them.
    """

    each: Count = 300
    """Training sentences of each source."""
    max_test: Count | None = 1000
    """Test sentences; null for 1000."""
    max_validation: Count = 200
    """Sentences of the validation split, which is trusted."""
    max_length: Length = 48
    """Tokens of a sentence at most."""
    data_seed: Natural = 0
    """Decides the sentences and the shuffle."""
    name: str = "demo_sources"
    """The task's name in results."""

    def load(self) -> LabelledData:
        """Make the sentences."""
        from experiments.tasks.kinds.labelled import LabelledData

        seed = 10 * self.data_seed
        shuffle = random.Random(f"shuffled labels {seed}")
        clean, shuffled, flipped = (labelled(self.each, seed + i) for i in range(3))
        given = [label for _, label in shuffled]
        shuffle.shuffle(given)
        train: list[Example] = []
        for source, rows, labels in (
            ("clean", clean, None),
            ("shuffled", shuffled, given),
            ("flipped", flipped, [1 - label for _, label in flipped]),
            ("visits", visits(self.each, seed + 3), None),
        ):
            for number, (text, truth) in enumerate(rows):
                label = truth if labels is None else labels[number]
                train.append(Example((text,), label, Origin(source, number, "row", truth, source)))
        known = {example.texts[0] for example in train}
        validation = self._fresh(self.max_validation, seed + 4, known)
        known |= {example.texts[0] for example in validation}
        kept = self.kept_train(train, [int(example.label) for example in train])
        return LabelledData(
            name=self.name,
            train=kept,
            tests={"test": self._fresh(self.max_test or 1000, seed + 5, known)},
            test_source="grammar",
            label_names=["negative", "positive"],
            metrics=("accuracy",),
            max_length=self.max_length,
            validation=validation,
        )

    def inputs(self) -> Inputs:
        """A text alone, in a column ``text``."""
        return text_inputs(("text",), lambda texts: Example(texts, 0))

    def _fresh(self, count: int, seed: int, known: set[str]) -> list[Example]:
        """Sentences that are not known; short ones recur, so some more are made."""
        made = labelled(2 * count + 50, seed)
        return [Example((text,), label) for text, label in made if text not in known][:count]
