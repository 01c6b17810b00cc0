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
from experiments.models.planted_removal import Removal, removal
from experiments.models.planted_tokenizer import PlantedTokenizer
from experiments.tasks.examples import Example, Origin
from experiments.tasks.kinds.labelled import LabelledData

__all__ = ["PlantedData", "drawn"]

BATCH_SIZE = 1024
ROUNDS = 4  # of draws for the validation split, before there are too few sequences


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

    @property
    def removal(self) -> Removal:
        """The teacher's components in the order in which the loss can spare them.

        Computed when first asked for. `removal.ranks(total)` are true ranks at any total, for
        `experiments.metrics.ranks.recovery`.
        """
        assert self.planted is not None
        return removal(self.planted)

    def tokenise(
        self, tokenizer: Any, examples: Sequence[Example], seq2seq: bool = False
    ) -> list[dict[str, Any]]:
        """As of any task; raises UserError for a tokenizer of another model than the base."""
        if not isinstance(tokenizer, PlantedTokenizer) or tokenizer.planted != self.planted:
            raise UserError(NEEDED)
        return super().tokenise(tokenizer, examples)


def drawn(
    problem: PlantedProblem,
    name: str,
    max_train: int,
    max_test: int,
    noise: float,
    seed: int,
    max_validation: int = 0,
) -> PlantedData:
    """Make the examples.

    Args:
        problem: teacher and base.
        name: the task's name.
        max_train: training sequences.
        max_test: test sequences.
        noise: share of wrong labels in the training set.
        seed: decides the sequences and which labels are wrong.
        max_validation: sequences of a validation split with right labels; 0 for none.

    Raises:
        UserError: there are too few different sequences for a validation split.
    """
    networks = PlantedNetworks(problem)
    draw = networks.generator("data", seed)
    ids = networks.sequences(max_train + max_test, draw)
    teacher = networks.teacher()
    outputs = _outputs(teacher, ids)
    right = outputs.argmax(1)
    wrong = torch.rand(len(ids), generator=draw) < noise
    wrong[max_train:] = False
    shift = torch.randint(1, problem.classes, (len(ids),), generator=draw)
    labels = torch.where(wrong, (right + shift) % problem.classes, right)
    examples = _examples(problem, ids, labels)
    validation = None
    if max_validation:
        fresh = _others(networks, max_validation, ids, seed)
        validation = _examples(problem, fresh, _outputs(teacher, fresh).argmax(1))
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
        validation=validation,
        true_ranks=_true_ranks(networks),
        planted=problem,
        reference_losses={
            "base": float(functional.cross_entropy(base, right[test])),
            "teacher": float(functional.cross_entropy(outputs[test], right[test])),
        },
    )


def _true_ranks(networks: PlantedNetworks) -> dict[str, int]:
    """The planted ranks; of unequal singular values those that the loss needs."""
    if networks.problem.decay == 1:
        return networks.true_ranks()
    found = removal(networks.problem)
    return found.ranks(found.needed())


def _examples(problem: PlantedProblem, ids: Tensor, labels: Tensor) -> list[Example]:
    return [
        Example((" ".join(map(problem.word, row)),), label, Origin("planted", i))
        for i, (row, label) in enumerate(zip(ids.tolist(), labels.tolist(), strict=True))
    ]


def _others(networks: PlantedNetworks, count: int, ids: Tensor, seed: int) -> Tensor:
    """Sequences (count, length) that differ from each other and from all of ``ids``."""
    seen = set(map(tuple, ids.tolist()))
    # Of a stream of its own: training and test set are the same with and without.
    draw = networks.generator("validation", seed)
    found: list[tuple[int, ...]] = []
    for _ in range(ROUNDS):
        for row in map(tuple, networks.sequences(count, draw).tolist()):
            if row not in seen and len(found) < count:
                seen.add(row)
                found.append(row)
    if len(found) < count:
        raise UserError(
            f"task.max_validation={count}: the {networks.problem.vocabulary} words and length "
            f"{networks.problem.length} of task.planted give {len(found)} sequences that are in "
            "neither training nor test set: ask for fewer"
        )
    return torch.tensor(found)


@torch.no_grad()
def _outputs(model: torch.nn.Module, ids: Tensor) -> Tensor:
    """Logits (n, classes)."""
    return torch.cat([model(input_ids=rows).logits for rows in ids.split(BATCH_SIZE)])
