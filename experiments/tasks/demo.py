"""Make up sentences with a sentiment: needs no data and no hub."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Lt

from bilevel.settings import Count, Natural
from experiments.tasks.examples import Example, Origin
from experiments.tasks.inputs import Inputs, text_inputs
from experiments.tasks.made_up.grammar import labelled
from experiments.tasks.task import Length, Task

if TYPE_CHECKING:
    from experiments.tasks.kinds.labelled import LabelledData

__all__ = ["Demo"]


@dataclass(frozen=True)
class Demo(Task):
    """The demo language's sentences, few and partly mislabelled, so that over-fitting shows."""

    max_train: Count = 300
    """Training sentences."""
    max_test: Count = 1000
    """Test sentences; none of them is in the training set."""
    noise: Annotated[float, Ge(0), Lt(0.5)] = 0.1
    """Share of wrong labels in both sets, as in most real data: no accuracy exceeds 1 - noise, and
    what fits the wrong labels of one set is wrong on the other."""
    max_length: Length = 48
    """Tokens of a sentence at most."""
    data_seed: Natural = 0
    """Decides the sentences and which labels are wrong."""
    name: str = "demo"
    """The task's name in results."""

    def load(self) -> LabelledData:
        """Make the sentences."""
        from experiments.tasks.kinds.labelled import LabelledData

        train = labelled(self.max_train, 2 * self.data_seed, self.noise)
        known = {text for text, _ in train}
        # Short sentences recur: make some more, and leave out those that training has.
        spare = labelled(
            self.max_test + self.max_test // 2 + 50, 2 * self.data_seed + 1, self.noise
        )
        test = [(text, label) for text, label in spare if text not in known][: self.max_test]
        return LabelledData(
            name=self.name,
            train=[
                Example((text,), label, Origin(self.name, i))
                for i, (text, label) in enumerate(train)
            ],
            tests={"test": [Example((text,), label) for text, label in test]},
            test_source="grammar",
            label_names=["negative", "positive"],
            metrics=("accuracy",),
            max_length=self.max_length,
        )

    def inputs(self) -> Inputs:
        """A text alone, in a column ``text``."""
        return text_inputs(("text",), lambda texts: Example(texts, 0))
