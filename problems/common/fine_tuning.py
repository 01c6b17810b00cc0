"""Define the Betty problems that most methods are made of."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from torch import Tensor, nn

from bilevel import (
    BilevelProblem,
    LowerProblem,
    ProblemConfig,
    ResumableLoader,
    UpperProblem,
    precision,
)
from bilevel.evaluation import evaluating_for_gradients
from problems.common.build_optimizer import Parameters, optimizer_and_scheduler
from problems.common.method import Job
from problems.common.optimizer_settings import OptimizerSettings
from problems.common.parameters import at_two_rates, trainable

__all__ = [
    "EvaluatedHeldOut",
    "FineTuning",
    "HeldOut",
    "full_precision",
    "only_problem",
    "problem_config",
]

P = TypeVar("P", bound=BilevelProblem)


class FineTuning(LowerProblem):
    """The task's loss of a transformers model; its trainable parameters are one level's."""

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """The model's own loss on a batch with ``labels``."""
        return self.module(**batch).loss


class HeldOut(UpperProblem):
    """Upper level: the loss of the lower problem's model, as it is by then, on D_val."""

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """L(V, E; D_val)."""
        return self.lower.module(**batch).loss


class EvaluatedHeldOut(HeldOut):
    """Upper level: L(V, E; D_val) of the model as it will be used, without dropout.

    For weights of examples and sources, and settings, which methods here add to the papers':
    dropout would make L2 of a small D_val another loss at each step. The papers' own upper
    variables score their model as it trains; so do the gates of ``autolora_singular`` and
    ``salora_bilevel``, which are ours too: what was measured of these methods was measured so.
    """

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss in evaluation mode; settings that the model keeps are part of it."""
        with evaluating_for_gradients(self.lower.module):
            return super().training_step(batch)


def problem_config(job: Job, **values: Any) -> ProblemConfig:
    """A problem's config with the job's precision, accumulation and clipping."""
    settings = job.settings
    return ProblemConfig(
        precision=settings.precision,
        gradient_accumulation=settings.gradient_accumulation,
        gradient_clipping=settings.gradient_clipping,
        **values,
    )


def only_problem(
    kind: Callable[..., P],
    job: Job,
    model: nn.Module,
    batches: ResumableLoader,
    optimizer: OptimizerSettings,
    steps: int,
    lr: float,
    parameters: Parameters | None = None,
    **options: Any,
) -> P:
    """The problem of a method that has no other, named ``lower``.

    Args:
        kind: its class.
        job: tells precision, accumulation, clipping and warm-up.
        model: all of its parameters that require a gradient are trained.
        parameters: the same in groups with rates or decays of their own; None for one group.
        batches: training data.
        optimizer, steps, lr: the optimiser, its schedule's length, and the learning rate where the
            optimiser's settings name none.
        **options: further arguments of the class.
    """
    ratio = job.settings.lora_plus_ratio
    if ratio is not None:
        rate = lr if optimizer.lr is None else optimizer.lr
        parameters = at_two_rates(model, parameters or trainable(model), rate, ratio)
    optim, schedule = optimizer_and_scheduler(
        optimizer, parameters or trainable(model), steps, lr, job.settings.warmup_steps
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


def full_precision(problem: BilevelProblem) -> AbstractContextManager[None]:
    """Context without autocast, for the penalties in a training step.

    Trainable parameters are in fp32; a Gram matrix in bf16 would be off by a hundredth.
    """
    return precision.autocast("fp32", str(problem.device).split(":")[0])
