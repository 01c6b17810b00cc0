"""Sentiment of made-up sentences: needs no data and no hub."""

from bilevel.errors import UserError
from experiments.tasks.kinds.labelled import Example, LabelledData
from experiments.tasks.made_up.grammar import labelled
from experiments.tasks.task import Task, check_length

__all__ = ["Demo"]


class Demo(Task):
    """The demo language's sentences, few and partly mislabelled, so that over-fitting shows.

    Args:
        max_train: training sentences.
        max_test: test sentences; none of them is in the training set.
        noise: share of wrong labels in both sets, as in most real data; so no accuracy exceeds
            1 - noise, and what fits the wrong labels of one set is wrong on the other.
        max_length: tokens of a sentence at most.
        data_seed: decides the sentences and which labels are wrong.
        name: the task's name in results.
    """

    def __init__(
        self,
        max_train: int = 300,
        max_test: int = 1000,
        noise: float = 0.1,
        max_length: int = 48,
        data_seed: int = 0,
        name: str = "demo",
    ) -> None:
        if min(max_train, max_test) < 1:
            raise UserError("task.max_train and task.max_test must be at least 1")
        if not 0.0 <= noise < 0.5:
            raise UserError(f"task.noise must be in [0, 0.5), not {noise}")
        self.name = name
        self.max_train = max_train
        self.max_test = max_test
        self.noise = noise
        check_length(max_length)
        self.max_length = max_length
        self.data_seed = data_seed

    def load(self) -> LabelledData:
        """Make the sentences."""
        train = labelled(self.max_train, 2 * self.data_seed, self.noise)
        known = {text for text, _ in train}
        # Short sentences recur: make some more, and leave out those that training has.
        spare = labelled(
            self.max_test + self.max_test // 2 + 50, 2 * self.data_seed + 1, self.noise
        )
        test = [(text, label) for text, label in spare if text not in known][: self.max_test]
        return LabelledData(
            name=self.name,
            train=[Example((text,), label) for text, label in train],
            tests={"test": [Example((text,), label) for text, label in test]},
            test_source="grammar",
            label_names=["negative", "positive"],
            metrics=("accuracy",),
            max_length=self.max_length,
        )
