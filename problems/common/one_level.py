"""What methods of one level share: one problem, one stage, all of the training data.

    min over the trained parameters V of  L(V; D_train + D_val)

A method says in :meth:`OneLevelMethod.adapt` which parameters V are; data order, steps, schedule
and evaluation are those of every other method, so that a comparison compares the methods alone.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from torch import nn
from transformers import PreTrainedModel

from bilevel import BilevelProblem, ResumableLoader
from problems.common.method import (
    FineTuning,
    Job,
    Method,
    Outcome,
    StageRunner,
    count,
    loader,
    problem_config,
    total_steps,
    trainable,
)
from problems.common.optimizer_settings import OptimizerSettings, optimizer_and_scheduler

__all__ = ["ALONE", "OneLevelMethod", "only_problem", "peft_head", "train_only"]

log = logging.getLogger(__name__)

P = TypeVar("P", bound=BilevelProblem)

# The graph of a single problem.
ALONE: dict[str, dict[Any, list[Any]]] = {"u2l": {}, "l2u": {}}


@dataclass(frozen=True)
class OneLevelMethod(Method):
    """A method that trains one set of parameters on all of the training data.

    Args:
        optimizer: of all that is trained. Its learning rate, where given, goes before train.lr,
            which suits LoRA and would wreck a fully trained model.
    """

    default_lr: ClassVar[float] = 5e-4
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)

    @abstractmethod
    def adapt(self, job: Job, model: PreTrainedModel) -> nn.Module:
        """Make a pretrained model the one to train.

        All of its parameters that require a gradient are trained, and nothing else.

        Raises:
            UserError: the method does not suit the model.
        """

    def finish(self, model: Any) -> Any:
        """What is saved of the trained model; the model itself unless overridden."""
        return model

    def ranks(self, model: Any) -> dict[str, int] | None:
        """Rank of every adapted module; None without ranks."""
        return None

    def run(self, job: Job) -> Outcome:
        """One stage, one problem."""
        return job.stage("train", lambda stage: self._train(job, stage), last=True)

    def _train(self, job: Job, stage: StageRunner) -> Outcome:
        model = self.adapt(job, job.build_model())
        parameters = trainable(model)
        batches = loader(job)
        steps = total_steps(job, batches, job.settings.epochs)
        given = job.settings.lr
        if self.optimizer.lr is not None and given not in (None, self.optimizer.lr):
            log.info(
                "learning rate %g is the method's own (method.optimizer.lr); %g is for LoRA",
                self.optimizer.lr,
                given,
            )
        lr = self.default_lr if given is None else given
        problem = only_problem(FineTuning, job, model, batches, self.optimizer, steps, lr)
        stage.run([problem], ALONE, steps, model)
        return Outcome(
            model=self.finish(model),
            ranks=self.ranks(model),
            trainable_parameters=count(parameters),
            split={"train": len(job.data.examples)},
        )


def only_problem(
    kind: Callable[..., P],
    job: Job,
    model: nn.Module,
    batches: ResumableLoader,
    optimizer: OptimizerSettings,
    steps: int,
    lr: float,
    **options: Any,
) -> P:
    """The problem of a method that has no other, named ``lower``.

    Args:
        kind: its class.
        job: tells precision, accumulation, clipping and warm-up.
        model: all of its parameters that require a gradient are trained.
        batches: training data.
        optimizer, steps, lr: the optimiser, its schedule's length, and the learning rate where the
            optimiser's settings name none.
        **options: further arguments of the class.
    """
    optim, schedule = optimizer_and_scheduler(
        optimizer, trainable(model), steps, lr, job.settings.warmup_steps
    )
    return kind(
        "lower",
        problem_config(job),
        module=model,
        optimizer=optim,
        scheduler=schedule,
        train_data_loader=batches,
        **options,
    )


def train_only(model: nn.Module, names: Collection[str], modules: Collection[str]) -> None:
    """Freeze all parameters but those named, and those of the named modules (the head)."""
    for name, parameter in model.named_parameters():
        inside = any(name.startswith(f"{module}.") for module in modules)
        parameter.requires_grad_(inside or name in names)


def peft_head(job: Job) -> dict[str, Any]:
    """``PeftConfig`` options by which PEFT trains and saves the head in full."""
    # A copy: PEFT appends its own guesses to the list.
    return {
        "task_type": job.task_type,
        "modules_to_save": list(job.head_modules) or None,
    }
