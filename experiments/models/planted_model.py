"""Serve the base transformer of `task=planted` as a model, with a tokenizer of its words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bilevel.errors import UserError
from bilevel.settings import Rate
from experiments.answers import CLASSES, Answers
from experiments.models.base_reference import BaseReference, of_program
from experiments.models.planted_problem import PlantedProblem
from experiments.models.spec import ModelSpec

if TYPE_CHECKING:
    from transformers import BertConfig

    from experiments.models.pretrained import LoadedModel

__all__ = ["NEEDED", "PlantedModel"]

ALONE = "model=planted is the base of task=planted and goes with that task alone"
NEEDED = (
    "task=planted is made for its own base model: use model=planted, whose settings follow "
    "task.planted"
)


@dataclass(frozen=True)
class PlantedModel(ModelSpec):
    """The base of a planted problem, made and not loaded; the run's seed changes nothing in it."""

    name: str = "planted"
    lr: Rate | None = 5e-3
    planted: PlantedProblem | None = None
    """The problem, which conf/model/planted.yaml takes from the task."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pretrained is not None or self.package is not None:
            raise UserError("model=planted is made by the program: it takes no model.pretrained")
        if self.dropout is not None:
            raise UserError("model=planted has no dropout: leave model.dropout=null")

    def source(self) -> str:
        """Nothing is loaded; raises UserError without a problem."""
        self._problem()
        return self.name

    def reference(self) -> BaseReference:
        """Nowhere: it is made anew by every run of its problem."""
        return of_program("model=planted")

    def config(self, answers: Answers) -> BertConfig:
        """The architecture; raises UserError for a task that is not the planted one."""
        from experiments.models.planted_networks import PlantedNetworks

        config = PlantedNetworks(self._problem()).config()
        if answers.kind != CLASSES or answers.size != config.num_labels:
            raise UserError(ALONE)
        return config

    def layout(self, answers: Answers) -> None:
        """It is made in a moment."""

    def load(self, answers: Answers, seed: int) -> LoadedModel:
        """Make the base model; it has the teacher's head already, so nothing of it is trained.

        Raises:
            UserError: the task is not the planted one.
        """
        from experiments.models.planted_networks import PlantedNetworks
        from experiments.models.planted_tokenizer import PlantedTokenizer
        from experiments.models.pretrained import LoadedModel

        self.config(answers)
        model = PlantedNetworks(self._problem()).base()
        wanted = "sdpa" if self.attn_implementation == "auto" else self.attn_implementation
        model.set_attn_implementation(wanted)
        return LoadedModel(
            model, PlantedTokenizer.of(self._problem()), head_modules=[], task_type=None
        )

    def _problem(self) -> PlantedProblem:
        if self.planted is None:
            raise UserError(ALONE)
        return self.planted
