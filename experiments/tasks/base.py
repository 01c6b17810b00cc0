"""What a task is: examples, and how predictions on them are scored.

A task knows no model and no method. It gives texts and labels; a tokenizer makes them tensors.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bilevel.data import stratified_order
from bilevel.errors import UserError
from experiments.metrics import METRICS

__all__ = ["CLASSIFICATION", "REGRESSION", "Example", "Task", "TaskData", "check_length", "choose"]

CLASSIFICATION = "classification"
REGRESSION = "regression"
LEAST_LENGTH = 8  # a pair of texts has up to 4 tokens that are no text


class Example(NamedTuple):
    """One or two texts, and a class number (int) or a regression target (float)."""

    texts: tuple[str, ...]
    label: int | float


@dataclass(frozen=True)
class TaskData:
    """A loaded task.

    Attributes:
        name: the task's name.
        train: the training examples; methods split them further.
        tests: test sets by name: {"test": ...}, or for MNLI {"matched": ..., "mismatched": ...}.
        test_source: the split that the test sets were read from, e.g. "validation".
        label_names: the classes' names, in the order of their numbers; None for regression.
        metrics: names in `experiments.metrics.METRICS`; the first is the primary one.
        max_length: tokens of an example at most, longer ones are truncated.
        true_ranks: the right rank of each matrix, by its full name, where it is known.
    """

    name: str
    train: list[Example]
    tests: dict[str, list[Example]]
    test_source: str
    label_names: list[str] | None
    metrics: tuple[str, ...]
    max_length: int
    true_ranks: dict[str, int] | None = None

    @property
    def problem_type(self) -> str:
        """Either "classification" or "regression"."""
        return REGRESSION if self.label_names is None else CLASSIFICATION

    @property
    def num_labels(self) -> int:
        """Outputs of the model: the number of classes, 1 for regression."""
        return 1 if self.label_names is None else len(self.label_names)

    @property
    def primary_metric(self) -> str:
        """The metric that the task is judged by."""
        return self.metrics[0]

    def stratify(self, examples: Sequence[Example]) -> list[int] | None:
        """Return class numbers for a stratified split; None for regression."""
        return None if self.label_names is None else [int(example.label) for example in examples]

    def tokenise(self, tokenizer: Any, examples: Sequence[Example]) -> list[dict[str, Any]]:
        """Return input_ids, attention_mask, [token_type_ids] and labels of each, unpadded."""
        if not examples:
            return []
        limit = min(self.max_length, tokenizer.model_max_length)
        columns = [list(column) for column in zip(*(e.texts for e in examples), strict=True)]
        encoded = tokenizer(*columns, truncation=True, max_length=limit)
        keys = list(encoded)
        return [
            {**{key: encoded[key][i] for key in keys}, "labels": example.label}
            for i, example in enumerate(examples)
        ]

    def score(self, logits: dict[str, np.ndarray]) -> dict[str, float]:
        """Score the (n, num_labels) outputs for each test set, given in the examples' order.

        Returns:
            Each metric over all test sets together and, when there are several, over each of them
            as `metric_name`: MNLI has accuracy, accuracy_matched and accuracy_mismatched.
        """
        predictions = {name: self._predict(logits[name]) for name in self.tests}
        labels = {name: np.array([e.label for e in rows]) for name, rows in self.tests.items()}
        scores = {}
        for metric in self.metrics:
            function = METRICS[metric]
            scores[metric] = function(
                np.concatenate(list(predictions.values())), np.concatenate(list(labels.values()))
            )
            if len(self.tests) > 1:
                for name in self.tests:
                    scores[f"{metric}_{name}"] = function(predictions[name], labels[name])
        return scores

    def _predict(self, logits: np.ndarray) -> np.ndarray:
        return logits[:, 0] if self.label_names is None else logits.argmax(axis=1)


class Task(ABC):
    """A named source of `TaskData`; its constructor's arguments are the task's configuration."""

    name: str

    def check_model(self, model: Any) -> None:  # noqa: B027 (most tasks take any)
        """Refuse a ``ModelSpec`` that cannot serve this task, before anything is loaded.

        Raises:
            UserError: the task needs a model of its own.
        """

    @abstractmethod
    def load(self) -> TaskData:
        """Read or make the examples.

        Raises:
            UserError: a file, a column or a label is missing, or a split is empty.
        """


def check_length(tokens: int) -> None:
    """Raise UserError unless an example of so many tokens has room for some of its own."""
    if tokens < LEAST_LENGTH:
        raise UserError(f"task.max_length={tokens}: this must be {LEAST_LENGTH} or more")


def choose(
    examples: list[Example], limit: int | None, seed: int, classification: bool, what: str
) -> list[Example]:
    """Return the first `limit` of a seeded, stratified shuffle; all, as they are, without one.

    Raises:
        UserError: `limit` is below 1.
    """
    if limit is None:
        return examples
    if limit < 1:
        raise UserError(f"{what} must be at least 1, not {limit}")
    labels = [example.label for example in examples] if classification else None
    return [examples[i] for i in stratified_order(len(examples), seed, labels)[:limit]]
