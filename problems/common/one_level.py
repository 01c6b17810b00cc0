"""Train one set of parameters on all of the training data: what methods of one level share.

    min over the trained parameters V of  L(V; D_train + D_val)

A method says in :meth:`OneLevelMethod.adapt` which parameters V are; data order, steps, schedule
and evaluation are those of every other method, so that a comparison compares the methods alone.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from problems import common
from problems.common.method import DVal, Job, Method, Stage, Training
from problems.common.optimizer_settings import OptimizerSettings
from problems.common.records import Outcome

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

__all__ = ["ALONE", "OneLevelMethod"]

log = logging.getLogger(__name__)

# The graph of a single problem.
ALONE: dict[str, dict[Any, list[Any]]] = {"u2l": {}, "l2u": {}}


@dataclass(frozen=True)
class OneLevelMethod(Method):
    """A method that trains one set of parameters on all of the training data."""

    default_lr: ClassVar[float] = 5e-4
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    """Of all that is trained; its lr, where given, takes precedence over train.lr, which suits LoRA
    and would wreck a fully trained model."""

    @abstractmethod
    def adapt(self, job: Job, model: PreTrainedModel) -> nn.Module:
        """Make a pretrained model the one to train.

        All of its parameters that require a gradient are trained, and nothing else.

        Raises:
            UserError: the method does not suit the model.
        """

    def undecayed(self, model: Any) -> list[nn.Parameter]:
        """What of the trained parameters no weight decay acts on; nothing unless overridden.

        Decay is towards 0, so it wrecks what starts at pretrained values and is not a step away
        from them.

        Args:
            model: as :meth:`adapt` made it.
        """
        return []

    def finish(self, model: Any) -> Any:
        """What is saved of the trained model; the model itself unless overridden."""
        return model

    def ranks(self, model: Any) -> dict[str, int] | None:
        """Rank of every adapted module; None without ranks."""
        return None

    def held_out(self, own: bool) -> DVal:
        """The task's own validation split."""
        return "apart" if own else "nothing"

    def stages(self) -> Sequence[Stage]:
        """One stage, one problem."""
        return (Stage("train", self.prepare),)

    def prepare(self, job: Job, found: None) -> Training:
        """All that :meth:`adapt` leaves trainable, on all of the data."""
        model = self.adapt(job, job.build_model())
        common.in_full_precision(model)
        parameters = common.trainable(model)
        batches = common.loader(job)
        steps = common.total_steps(job, batches, job.settings.epochs)
        given = job.settings.lr
        if self.optimizer.lr is not None and given not in (None, self.optimizer.lr):
            log.info(
                "learning rate %g is the method's own (method.optimizer.lr); %g is for LoRA",
                self.optimizer.lr,
                given,
            )
        lr = self.default_lr if given is None else given
        problem = common.only_problem(
            common.FineTuning,
            *(job, model, batches, self.optimizer, steps, lr),
            parameters=common.without_decay(parameters, self.undecayed(model)),
        )

        def finish(stats: dict[str, float]) -> Outcome:
            return Outcome(
                model=self.finish(model),
                ranks=self.ranks(model),
                trainable_parameters=common.count(parameters),
                split={"train": len(job.data.examples)},
            )

        return Training([problem], ALONE, steps, model, finish)
