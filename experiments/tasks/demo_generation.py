"""Make up descriptions of places to eat: needs no data and no hub."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bilevel.settings import Count, Natural
from experiments.answers import Decoding
from experiments.tasks.examples import Origin, TextExample
from experiments.tasks.generation import check_metrics
from experiments.tasks.inputs import Inputs, text_inputs
from experiments.tasks.made_up.descriptions import pairs
from experiments.tasks.task import Length, Task

if TYPE_CHECKING:
    from experiments.tasks.kinds.text import TextData

__all__ = ["DemoGeneration"]


@dataclass(frozen=True)
class DemoGeneration(Task):
    """The demo's generation language: a meaning representation, and sentences that tell it."""

    name: str = "demo_generation"
    """The task's name in results."""
    max_train: Count = 300
    """Meaning representations to train on; each has two to five references, all trained on."""
    max_test: Count = 200
    """Meaning representations of the test; none of them is trained on."""
    max_validation: Count = 50
    """Meaning representations of the validation split, which are in neither of the others: D_val of
    methods with method.split=null."""
    metrics: tuple[str, ...] = ("bleu", "rougeL")
    """Scores of written text, the primary one first."""
    decoding: Decoding = field(default_factory=lambda: Decoding(beams=4, max_new_tokens=48))
    """How the tests' answers are written."""
    max_length: Length = 128
    """Tokens of source and target together at most."""
    data_seed: Natural = 0
    """Decides the examples."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_metrics(self.metrics)

    def load(self) -> TextData:
        """Make the examples; those of the training are the first of all that are made."""
        from experiments.tasks.kinds.text import TextData

        seen = self.max_train + self.max_test
        made = pairs(seen + self.max_validation, self.data_seed)
        train, test, validation = made[: self.max_train], made[self.max_train : seen], made[seen:]
        return TextData(
            name=self.name,
            train=_learned(train),
            tests={"test": [TextExample(source, t[0], tuple(t)) for source, t in test]},
            test_source="grammar",
            metrics=self.metrics,
            max_length=self.max_length,
            decoding=self.decoding,
            validation=_learned(validation),
        )

    def inputs(self) -> Inputs:
        """A meaning representation, in a column ``source``."""
        return text_inputs(("source",), lambda texts: TextExample(texts[0], ""))


def _learned(made: list[tuple[str, list[str]]]) -> list[TextExample]:
    """An example for each reference."""
    return [
        TextExample(source, text, (), Origin("demo_generation", i))
        for i, (source, texts) in enumerate(made)
        for text in texts
    ]
