r"""What methods with a lower and an upper level share: the data's two parts, the problems, the run.

    lower   V*(E) = argmin over V of  L(V, E; D1)  (+ penalties on V)
    upper   min over E of  L(V*(E), E; D2)         (+ penalties on E)

A method derives from :class:`TwoLevelMethod`, describes its two sides as :class:`Level` and hands
them to :meth:`TwoLevelMethod.train`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bilevel import BilevelProblem, ResumableLoader, UpperProblem, precision
from bilevel.data import split as split_indices
from bilevel.errors import UserError
from problems.common.method import (
    ComponentValues,
    Job,
    Method,
    StageRunner,
    Watch,
    loader,
    problem_config,
    total_steps,
)
from problems.common.optimizer_settings import (
    OptimizerSettings,
    Parameters,
    check_range,
    optimizer_and_scheduler,
)

__all__ = ["HeldOut", "Level", "Sides", "TwoLevelMethod", "full_precision"]


class HeldOut(UpperProblem):
    """Upper level: the loss on D2 of the lower problem's model, at the weights it has reached."""

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """L(V, E; D2)."""
        return self.lower.module(**batch).loss


@dataclass(frozen=True)
class Sides:
    """D1 and D2, the data of the two levels.

    Attributes:
        lower, upper: their batches.
        validation: the examples of D2.
        sizes: examples of each, for ``Outcome.split``.
    """

    lower: ResumableLoader
    upper: ResumableLoader
    validation: list[dict[str, Any]]
    sizes: dict[str, int]


@dataclass(frozen=True)
class Level:
    """One side of the problem.

    Attributes:
        problem: makes the Betty problem, called as its class is; ``functools.partial`` for a class
            with more arguments.
        module: what the problem owns its parameters in.
        parameters: the level's own, disjoint from the other level's; or groups of them.
        optimizer: their optimiser and schedule.
        lr: learning rate where the optimiser's settings name none.
    """

    problem: Callable[..., BilevelProblem]
    module: nn.Module
    parameters: Parameters
    optimizer: OptimizerSettings
    lr: float


@dataclass(frozen=True)
class TwoLevelMethod(Method):
    """A method that trains two levels in turn.

    Args:
        split: share of the training data that is D1, the rest is D2; None takes the task's own
            validation split as D2 and all of the training data as D1.
        unroll_steps, upper_steps: T1 and T2.
        warmup_steps: lower steps before the first upper step.
        roll_back: after an upper step, take the last lower step again with the new upper variables.
    """

    split: float | None = 0.8
    unroll_steps: int = 1
    upper_steps: int = 1
    warmup_steps: int = 0
    roll_back: bool = False

    def __post_init__(self) -> None:
        share = self.split
        check_range("split", share, share is None or 0 < share < 1, "between 0 and 1")
        for name, least in (("unroll_steps", 1), ("upper_steps", 1), ("warmup_steps", 0)):
            check_range(name, getattr(self, name), getattr(self, name) >= least, f"{least} or more")

    def check_size(self, examples: int, batch_size: int) -> None:
        """Both sides of the split need a batch.

        Raises:
            UserError: one of them holds fewer examples.
        """
        super().check_size(examples, batch_size)
        if self.split is None:
            return
        sides = (round(self.split * examples), examples - round(self.split * examples))
        if min(sides) < batch_size:
            raise UserError(
                f"method.split={self.split} divides the {examples} training examples into "
                f"{sides[0]} and {sides[1]}, and train.batch_size={batch_size} is more than the "
                "smaller part: give more data, another split or a smaller batch"
            )

    def sides(self, job: Job) -> Sides:
        """The data of the two levels: disjoint, stratified by class, decided by the job's seed.

        Raises:
            UserError: ``split`` is None and the task has no validation split, or a smaller one than
                a batch.
        """
        data = job.data
        if self.split is not None:
            train, held_out = split_indices(len(data.examples), self.split, job.seed, data.labels)
            validation = [data.examples[i] for i in held_out]
            lower, upper = loader(job, train), loader(job, held_out, stream=1)
        else:
            train, validation = list(range(len(data.examples))), list(data.validation or ())
            if len(validation) < job.settings.batch_size:
                raise UserError(
                    f"method.split=null needs a task with a validation split of its own, of "
                    f"train.batch_size={job.settings.batch_size} examples or more; this one has "
                    f"{len(validation)}: give a share of the training data"
                )
            lower, upper = loader(job, train), _validation_loader(job, validation)
        sizes = {"train": len(train), "validation": len(validation)}
        return Sides(lower, upper, validation, sizes)

    def steps(self, job: Job) -> int:
        """Global steps in which the lower level takes the steps of one level on all of the data.

        With equal ``train.epochs`` a two-level method's lower level so sees as many examples as
        LoRA does.
        """
        return total_steps(job, loader(job), job.settings.epochs, self.unroll_steps)

    def train(
        self,
        job: Job,
        stage: StageRunner,
        sides: Sides,
        lower: Level,
        upper: Level,
        steps: int,
        model: Any,
        *,
        gates: ComponentValues | None = None,
        watch: Watch | None = None,
    ) -> dict[str, float]:
        """Run both levels for ``steps`` global steps and return the last evaluation.

        Their problems are named ``lower`` and ``upper``, and reach each other by these names.
        """
        warmup = job.settings.warmup_steps
        lower_optimizer, lower_schedule = optimizer_and_scheduler(
            lower.optimizer, lower.parameters, self._standing_steps(steps), lower.lr, warmup
        )
        upper_optimizer, upper_schedule = optimizer_and_scheduler(
            upper.optimizer, upper.parameters, self._upper_steps(steps), upper.lr, warmup
        )
        below = lower.problem(
            "lower",
            problem_config(
                job,
                hypergradient=job.hypergradient,
                unroll_steps=self.unroll_steps,
                warmup_steps=self.warmup_steps,
            ),
            module=lower.module,
            optimizer=lower_optimizer,
            scheduler=lower_schedule,
            train_data_loader=sides.lower,
        )
        above = upper.problem(
            "upper",
            problem_config(job, steps=self.upper_steps),
            module=upper.module,
            optimizer=upper_optimizer,
            scheduler=upper_schedule,
            train_data_loader=sides.upper,
        )
        return stage.run(
            [below, above],
            {"u2l": {above: [below]}, "l2u": {below: [above]}},
            steps,
            model,
            validation=sides.validation,
            gates=gates,
            watch=watch,
            roll_back=self.roll_back,
        )

    def _standing_steps(self, steps: int) -> int:
        """Lower optimiser steps that stand after ``steps`` global steps, T1 each.

        With ``roll_back`` only the one taken again does, but for the windows of the warm-up.
        """
        if not self.roll_back:
            return steps * self.unroll_steps
        warm = min(steps, self.warmup_steps // self.unroll_steps)
        return warm * self.unroll_steps + steps - warm

    def _upper_steps(self, steps: int) -> int:
        """Upper optimiser steps in ``steps`` global steps: none in the windows of the warm-up."""
        return max(1, steps - self.warmup_steps // self.unroll_steps) * self.upper_steps


def _validation_loader(job: Job, examples: Sequence[dict[str, Any]]) -> ResumableLoader:
    """Shuffled batches of the task's validation split, ordered independently of the others."""
    return ResumableLoader(
        examples,
        batch_size=job.settings.batch_size,
        collate=job.data.collate,
        seed=job.seed + 1000,
        lengths=[len(e["input_ids"]) for e in examples] if job.settings.group_by_length else None,
    )


def full_precision(problem: BilevelProblem) -> AbstractContextManager[None]:
    """Context without autocast, for the penalties in a training step.

    Trainable parameters are in fp32; a Gram matrix in bf16 would be off by a hundredth.
    """
    return precision.autocast("fp32", str(problem.device).split(":")[0])
