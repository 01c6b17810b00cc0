"""Define what a task is: examples, what a model has to put out for them, and how it is scored.

A task knows no model and no method. It gives texts and answers; a tokenizer makes them tensors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

from annotated_types import Ge

from bilevel.errors import UserError
from bilevel.settings import Count, Natural, Settings
from bilevel.views import taken
from experiments.answers import Answers
from experiments.tasks.examples import Origin, Placed

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from experiments.models.spec import ModelSpec
    from experiments.tasks.inputs import Inputs

__all__ = ["LEAST_LENGTH", "Length", "Subset", "Task", "TaskData", "choose", "no_examples"]

LEAST_LENGTH = 8  # a pair of texts has up to 4 tokens that are no text
Length = Annotated[int, Ge(LEAST_LENGTH)]  # tokens of an example

T = TypeVar("T")


@dataclass(frozen=True)
class TaskData(ABC):
    """A loaded task; subclasses are its kinds.

    Attributes:
        name: the task's name.
        train: the training examples; methods split them further.
        tests: test sets by name: {"test": ...}, or for MNLI {"matched": ..., "mismatched": ...}.
        test_source: the split that the test sets were read from, e.g. "validation".
        metrics: names of scores; the first is the primary one.
        max_length: tokens of an example at most, longer ones are truncated.
        validation: a split of its own besides training and test set; None without one.
        true_ranks: the right rank of each matrix, by its full name, where it is known.
        train_source: the split that the training examples were read from; None without any.
        warnings: what was said of the data while they were read.
        weights: of the training examples in the loss, equally many; None for equal ones.
        draw_weights: of the training examples in the drawing of batches, equally many; None draws
            each once an epoch.
    """

    name: str
    train: Sequence[Any]
    tests: dict[str, Sequence[Any]]
    test_source: str
    metrics: tuple[str, ...]
    max_length: int
    validation: Sequence[Any] | None = None
    true_ranks: dict[str, int] | None = None
    train_source: str | None = "train"
    warnings: tuple[str, ...] = ()
    weights: tuple[float, ...] | None = None
    draw_weights: tuple[float, ...] | None = None

    @property
    @abstractmethod
    def answers(self) -> Answers:
        """What a model must put out."""

    @property
    def primary_metric(self) -> str:
        """The metric that the task is judged by."""
        return self.metrics[0]

    @property
    def metric_settings(self) -> dict[str, str]:
        """How scores are computed that have variants: metric -> one line (tokenisation, ...)."""
        return {}

    def origins(self) -> list[Origin]:
        """Where each training example stands in the user's data; one that nobody has told of
        stands where it is."""
        known = (e.origin if isinstance(e, Placed) else None for e in self.train)
        return [Origin(self.name, i) if o is None else o for i, o in enumerate(known)]

    def tested_labels(self) -> set[str]:
        """Names of the classes or tags that occur in the test sets; none without such."""
        return set()

    def renumbered(self, names: tuple[str, ...]) -> Self:
        """The same data for a model that puts out the classes or tags ``names``, in this order.

        Every label that is tested is among them; training examples with another are left out.
        """
        raise TypeError(f"{type(self).__name__} has no labels to number")

    def at_threshold(self, threshold: float) -> TaskData:
        """The same, where it says labels above a probability that has been chosen; else itself."""
        return self

    def stratify(self, examples: Sequence[Any]) -> list[int] | None:
        """Classes for a stratified split; None where there is none."""
        return None

    @abstractmethod
    def tokenise(
        self, tokenizer: Any, examples: Sequence[Any], seq2seq: bool = False
    ) -> list[dict[str, Any]]:
        """Columns for the model (input_ids, ...) and ``labels`` of each example, unpadded.

        Args:
            tokenizer: of the model.
            examples: any of the task's.
            seq2seq: for an encoder with a decoder, which has the labels apart from the input.
        """

    @abstractmethod
    def collator(self, tokenizer: Any) -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
        """What makes a padded batch out of tokenised examples."""

    @abstractmethod
    def losses(self, outputs: Any, batch: dict[str, Tensor]) -> tuple[float, int]:
        """The sum of a batch's losses, and of how many (examples, tags or tokens) it is the sum."""

    def example_losses(self, outputs: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The same of each example of a batch, (n,) and (n,), for comparisons in pairs.

        Raises:
            UserError: a task of one's own does not say.
        """
        raise UserError(
            f"task {self.name} does not say the losses of single examples: give its TaskData a "
            "method example_losses(outputs, batch)"
        )

    def constant_losses(self, examples: Sequence[dict[str, Any]]) -> np.ndarray | None:
        """Losses (n,) of tokenised examples under the best answer that is the same for all of them.

        It is the best for these very examples: what any model should beat. As in
        :meth:`example_losses` a sum over an example's terms; None where there is no such answer.
        """
        return None

    @abstractmethod
    def predictions(self, outputs: Any, batch: dict[str, Tensor]) -> list[Any]:
        """What the model says of each example of a batch, in the form that :meth:`score` takes."""

    @abstractmethod
    def score(self, predictions: dict[str, list[Any]]) -> dict[str, float | None]:
        """Score the predictions for each test set, given in the examples' order.

        Returns:
            Each metric over all test sets together and, when there are several, over each of them
            as `metric_name`: MNLI has accuracy, accuracy_matched and accuracy_mismatched. None is
            a metric that cannot be computed here.
        """

    @abstractmethod
    def records(self, predictions: Sequence[Any], examples: Sequence[Any]) -> list[dict[str, Any]]:
        """What ``predictions.jsonl`` says of each example of a test set, as JSON knows it.

        Args:
            predictions: as :meth:`score` takes them.
            examples: of the test set, equally many.
        """

    def texts(self, example: Any, tokenizer: Any) -> list[str]:
        """The texts of an example for a person to read, where :meth:`records` gives none.

        Args:
            example: of a test set.
            tokenizer: of the model, which reads the tokens of an example that is nothing else.
        """
        return []

    def entities(
        self, predictions: dict[str, list[Any]]
    ) -> dict[str, dict[str, float | int | None]] | None:
        """Scores of each type of entity over all test sets together; None without entities."""
        return None


class Task(Settings, ABC):
    """A named source of `TaskData`; its fields are the task's configuration."""

    name: str

    def check_model(self, model: ModelSpec) -> None:
        """Refuse a model that cannot serve this task, before anything is loaded.

        Raises:
            UserError: the task needs a model of its own.
        """

    @abstractmethod
    def load(self) -> TaskData:
        """Read or make the examples.

        Raises:
            UserError: a file, a column or a label is missing, or a split is empty.
        """

    def published(self) -> str | None:
        """The hub's id of the data that are read; None of all others."""
        return None

    def to_score(self, labels: Sequence[str] | None) -> TaskData:
        """The data for a model that is trained already; what it was trained on need not be there.

        Args:
            labels: the classes or tags that the model puts out; None without any.

        Raises:
            UserError: as :meth:`load`.
        """
        return self.load()

    def inputs(self) -> Inputs:
        """How rows without answers are read, for predictions on them.

        Raises:
            UserError: the task does not say.
        """
        raise UserError(
            f"task {self.name} does not say how rows without answers are read: give its class a "
            "method inputs() (docs/predict.md)"
        )

    def reads_pairs(self) -> bool:
        """Whether the options ask for two texts a row; a task that does not say is taken not to."""
        try:
            return len(self.inputs().columns) > 1
        except UserError:
            return False

    def to_predict(self, labels: Sequence[str] | None) -> TaskData:
        """The data without any examples, for a model that is trained already.

        Here it is :meth:`to_score` without them; tasks that read files do without these too.

        Args:
            labels: the classes or tags that the model puts out; None without any.
        """
        return replace(self.to_score(labels), **{**no_examples(), "validation": None})

    def scored_whole(self) -> Task:
        """The task on data that it was not trained on: no share of one file alone is the test."""
        return self


@dataclass(frozen=True, kw_only=True)
class Subset(Task):
    """Base of tasks on given data, of which a part may be taken."""

    max_train: Count | None = None
    """Training examples at most, the first of a seeded (stratified) shuffle; null for all."""
    max_test: Count | None = None
    """Test examples at most (of each test set); null for all."""
    subset_seed: Natural = 0
    """Decides which examples max_train and max_test keep."""

    def kept_train(
        self, examples: Sequence[T], classes: Sequence[int] | None = None
    ) -> Sequence[T]:
        """The training examples within `max_train`; see :func:`choose`."""
        return choose(examples, self.max_train, self.subset_seed, classes)

    def kept_test(self, examples: Sequence[T], classes: Sequence[int] | None = None) -> Sequence[T]:
        """The examples of a test set within `max_test`; see :func:`choose`."""
        return choose(examples, self.max_test, self.subset_seed, classes)


def no_examples() -> dict[str, Any]:
    """What `TaskData` is told of its examples where there are none."""
    return {"train": [], "train_source": None, "tests": {}, "test_source": "none"}


def choose(
    examples: Sequence[T], limit: int | None, seed: int, classes: Sequence[int] | None = None
) -> Sequence[T]:
    """Return the first `limit` of a seeded shuffle; all, as they are, without a limit.

    Args:
        examples: n of them.
        limit: how many are wanted, 1 or more.
        seed: decides which.
        classes: n class numbers; then the choice has their proportions.
    """
    from bilevel.data import stratified_order

    if limit is None:
        return examples
    return taken(examples, stratified_order(len(examples), seed, classes)[:limit])
