"""Descriptions of made-up places to eat: needs no data and no hub."""

from __future__ import annotations

from dataclasses import dataclass, field

from bilevel.errors import UserError
from experiments.tasks.generation import check_metrics
from experiments.tasks.kinds.text import Decoding, TextData, TextExample
from experiments.tasks.made_up.descriptions import pairs
from experiments.tasks.task import Task, check_length

__all__ = ["DemoGeneration"]


@dataclass(frozen=True)
class DemoGeneration(Task):
    """The demo's generation language: a meaning representation, and sentences that tell it.

    Attributes:
        name: the task's name in results.
        max_train: meaning representations to train on; each has two to five references, and all
            of them are trained on.
        max_test: meaning representations of the test; none of them is trained on.
        max_validation: meaning representations of the validation split, which are in neither of
            the others: D_val of methods with ``method.split=null``.
        metrics: names in `experiments.metrics.text.TEXT_METRICS`, the primary one first.
        decoding: how the tests' answers are written.
        max_length: tokens of source and target together at most.
        data_seed: decides the examples.
    """

    name: str = "demo_generation"
    max_train: int = 300
    max_test: int = 200
    max_validation: int = 50
    metrics: tuple[str, ...] = ("bleu", "rougeL")
    decoding: Decoding = field(default_factory=Decoding)
    max_length: int = 128
    data_seed: int = 0

    def __post_init__(self) -> None:
        if min(self.max_train, self.max_test, self.max_validation) < 1:
            raise UserError(
                "task.max_train, task.max_test and task.max_validation must be at least 1"
            )
        check_metrics(self.metrics)
        check_length(self.max_length)

    def load(self) -> TextData:
        """Make the examples; those of the training are the first of all that are made."""
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


def _learned(made: list[tuple[str, list[str]]]) -> list[TextExample]:
    """An example for each reference."""
    return [TextExample(source, text) for source, texts in made for text in texts]
