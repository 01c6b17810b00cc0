"""Draw the sequences of a planted problem and ask its teacher for their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bilevel.errors import UserError
from experiments.models.planted_model import NEEDED
from experiments.models.planted_networks import PlantedNetworks
from experiments.models.planted_problem import PlantedProblem
from experiments.models.planted_tokenizer import PlantedTokenizer
from experiments.tasks.examples import Example
from experiments.tasks.kinds.labelled import LabelledData

__all__ = ["PlantedData", "drawn"]

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
        if not isinstance(tokenizer, PlantedTokenizer) or tokenizer.planted != self.planted:
            raise UserError(NEEDED)
        return super().tokenise(tokenizer, examples)


def drawn(
    problem: PlantedProblem, name: str, max_train: int, max_test: int, noise: float, seed: int
) -> PlantedData:
    """Make the examples.

    Args:
        problem: teacher and base.
        name: the task's name.
        max_train: training sequences.
        max_test: test sequences.
        noise: share of wrong labels in the training set.
        seed: decides the sequences and which labels are wrong.
    """
    networks = PlantedNetworks(problem)
    draw = networks.generator("data", seed)
    ids = networks.sequences(max_train + max_test, draw)
    outputs = _outputs(networks.teacher(), ids)
    right = outputs.argmax(1)
    wrong = torch.rand(len(ids), generator=draw) < noise
    wrong[max_train:] = False
    shift = torch.randint(1, problem.classes, (len(ids),), generator=draw)
    labels = torch.where(wrong, (right + shift) % problem.classes, right).tolist()
    examples = [
        Example((" ".join(map(problem.word, row)),), label)
        for row, label in zip(ids.tolist(), labels, strict=True)
    ]
    test = slice(max_train, None)
    base = _outputs(networks.base().double(), ids[test])
    return PlantedData(
        name=name,
        train=examples[:max_train],
        tests={"test": examples[test]},
        test_source="teacher",
        label_names=[f"class{i}" for i in range(problem.classes)],
        metrics=("accuracy",),
        max_length=problem.length,
        true_ranks=networks.true_ranks(),
        planted=problem,
        reference_losses={
            "base": float(functional.cross_entropy(base, right[test])),
            "teacher": float(functional.cross_entropy(outputs[test], right[test])),
        },
    )


@torch.no_grad()
def _outputs(model: torch.nn.Module, ids: Tensor) -> Tensor:
    """Logits (n, classes)."""
    return torch.cat([model(input_ids=rows).logits for rows in ids.split(BATCH_SIZE)])
