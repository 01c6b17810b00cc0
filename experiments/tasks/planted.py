"""Make random sequences, labelled by a transformer in which low-rank updates are planted.

The right rank of every matrix is known (`TaskData.true_ranks`), so that a method which searches for
ranks can be scored on what it finds; see
`experiments.models.planted_networks` and `experiments.metrics.ranks`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bilevel.errors import UserError
from bilevel.settings import Count, Natural, Share
from experiments.models.planted_model import NEEDED, PlantedModel
from experiments.models.planted_problem import PlantedProblem
from experiments.tasks.task import Task

if TYPE_CHECKING:
    from experiments.models.spec import ModelSpec
    from experiments.tasks.kinds.planted_data import PlantedData

__all__ = ["Planted"]


@dataclass(frozen=True)
class Planted(Task):
    """Which of the classes the teacher sees in a random sequence of words."""

    planted: PlantedProblem = field(default_factory=PlantedProblem)
    """Teacher and base."""
    max_train: Count = 8000
    """Training sequences."""
    max_test: Count = 1000
    """Test sequences."""
    noise: Share = 0.0
    """Share of wrong labels in the training set, so that over-fitting shows; no others have any."""
    data_seed: Natural = 0
    """Decides the sequences and which labels are wrong."""
    max_validation: Natural = 0
    """Sequences of a validation split with right labels, none of them in training or test set."""
    name: str = "planted"
    """The task's name in results."""

    def check_model(self, model: ModelSpec) -> None:
        """Raise UserError for another model than the base."""
        if not isinstance(model, PlantedModel) or model.planted != self.planted:
            raise UserError(NEEDED)

    def load(self) -> PlantedData:
        """Draw the sequences and ask the teacher."""
        from experiments.tasks.kinds.planted_data import drawn

        return drawn(
            self.planted,
            self.name,
            self.max_train,
            self.max_test,
            self.noise,
            self.data_seed,
            self.max_validation,
        )
