"""Make up sentences with a sentiment, many mislabelled, and some whose labels are trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Lt

from bilevel.settings import Count, Natural
from experiments.tasks.demo import Demo
from experiments.tasks.examples import Example
from experiments.tasks.inputs import Inputs, text_inputs
from experiments.tasks.label_trust import LabelTrust
from experiments.tasks.task import Length

if TYPE_CHECKING:
    from experiments.tasks.kinds.labelled import LabelledData

__all__ = ["DemoNoisy"]


@dataclass(frozen=True, kw_only=True)
class DemoNoisy(LabelTrust):
    """The demo language's sentences, 40 % of them mislabelled but for 50 trusted ones; the test's
    labels are right."""

    max_train: Count = 650
    """Training sentences, trusted ones included."""
    max_test: Count = 1000
    """Test sentences; none of them is in the training set."""
    trusted: Count | None = 50
    """So many of the training sentences, in the classes' proportions, become the validation split,
    D_val of methods with method.split=null: their labels are right. null: there are none."""
    label_noise: Annotated[float, Ge(0), Lt(1)] = 0.4
    """Share of the training labels that are made wrong; never of trusted or tested ones. The right
    ones stay known to experiments.suspects."""
    max_length: Length = 48
    """Tokens of a sentence at most."""
    data_seed: Natural = 0
    """Decides the sentences."""
    name: str = "demo_noisy"
    """The task's name in results."""

    def load(self) -> LabelledData:
        """Make the sentences."""
        made = Demo(
            max_train=self.max_train,
            max_test=self.max_test,
            noise=0.0,
            max_length=self.max_length,
            data_seed=self.data_seed,
            name=self.name,
        )
        return self.with_trust(made.load())

    def inputs(self) -> Inputs:
        """A text alone, in a column ``text``."""
        return text_inputs(("text",), lambda texts: Example(texts, 0))
