"""Random sequences, labelled by a transformer in which low-rank updates are planted.

The right rank of every matrix is known (`TaskData.true_ranks`), so that a method which searches for
ranks can be scored on what it finds; see
`experiments.models.planted_problem` and `experiments.metrics.ranks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bilevel.errors import UserError
from experiments.models.planted_problem import PlantedProblem
from experiments.tasks.kinds.labelled import Example, LabelledData
from experiments.tasks.task import Task

__all__ = ["Planted", "PlantedData"]

BATCH_SIZE = 1024


@dataclass(frozen=True)
class PlantedData(LabelledData):
    """A planted problem's examples.

    Attributes:
        planted: the problem.
        reference_losses: mean cross-entropy on the test set of the untouched "base", where every
            student starts, and of the "teacher": the right ranks can reach it.
    """

    planted: PlantedProblem | None = None
    reference_losses: dict[str, float] = field(default_factory=dict)

    def tokenise(
        self, tokenizer: Any, examples: Sequence[Example], seq2seq: bool = False
    ) -> list[dict[str, Any]]:
        """As of any task; raises UserError for a tokenizer of another model than the base."""
        _check_base(tokenizer, self.planted)
        return super().tokenise(tokenizer, examples)


class Planted(Task):
    """Which of the classes the teacher sees in a random sequence of words.

    Args:
        planted: teacher and base.
        max_train: training sequences.
        max_test: test sequences.
        noise: share of wrong labels in the training set, so that over-fitting shows; the test set
            has none.
        data_seed: decides the sequences and which labels are wrong.
        name: the task's name in results.
    """

    def __init__(
        self,
        planted: PlantedProblem | None = None,
        max_train: int = 8000,
        max_test: int = 1000,
        noise: float = 0.0,
        data_seed: int = 0,
        name: str = "planted",
    ) -> None:
        if min(max_train, max_test) < 1:
            raise UserError("task.max_train and task.max_test must be at least 1")
        if not 0.0 <= noise < 1.0:
            raise UserError(f"task.noise must be in [0, 1), not {noise}")
        if data_seed < 0:
            raise UserError(f"task.data_seed={data_seed}: this must be 0 or more")
        self.name = name
        self.planted = PlantedProblem() if planted is None else planted
        self.max_train = max_train
        self.max_test = max_test
        self.noise = noise
        self.data_seed = data_seed

    def check_model(self, model: Any) -> None:
        """Raise UserError for another model than the base."""
        _check_base(model, self.planted)

    def load(self) -> PlantedData:
        """Draw the sequences and ask the teacher."""
        problem = self.planted
        draw = problem.generator("data", self.data_seed)
        ids = problem.sequences(self.max_train + self.max_test, draw)
        outputs = _outputs(problem.teacher(), ids)
        right = outputs.argmax(1)
        wrong = torch.rand(len(ids), generator=draw) < self.noise
        wrong[self.max_train :] = False
        shift = torch.randint(1, problem.classes, (len(ids),), generator=draw)
        labels = torch.where(wrong, (right + shift) % problem.classes, right).tolist()
        examples = [
            Example((" ".join(map(problem.word, row)),), label)
            for row, label in zip(ids.tolist(), labels, strict=True)
        ]
        test = slice(self.max_train, None)
        base = _outputs(problem.base().double(), ids[test])
        return PlantedData(
            name=self.name,
            train=examples[: self.max_train],
            tests={"test": examples[test]},
            test_source="teacher",
            label_names=[f"class{i}" for i in range(problem.classes)],
            metrics=("accuracy",),
            max_length=problem.length,
            true_ranks=problem.true_ranks(),
            planted=problem,
            reference_losses={
                "base": float(functional.cross_entropy(base, right[test])),
                "teacher": float(functional.cross_entropy(outputs[test], right[test])),
            },
        )


def _check_base(other: Any, problem: PlantedProblem | None) -> None:
    """Raise UserError unless a model or a tokenizer is of this problem."""
    if getattr(other, "planted", None) != problem:
        raise UserError(
            "task=planted is made for its own base model: use model=planted, whose settings "
            "follow task.planted"
        )


@torch.no_grad()
def _outputs(model: torch.nn.Module, ids: Tensor) -> Tensor:
    """Logits (n, classes)."""
    return torch.cat([model(input_ids=rows).logits for rows in ids.split(BATCH_SIZE)])
