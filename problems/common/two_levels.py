r"""Train two levels in turn: the data's two parts, the problems, the graph that methods share.

    lower   V*(E) = argmin over V of  L(V, E; D_train)  (+ penalties on V)
    upper   min over E of  L(V*(E), E; D_val)           (+ penalties on E)

A method derives from :class:`TwoLevelMethod`, describes its levels as :class:`Level` and hands them
to :meth:`TwoLevelMethod.training`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Gt, Lt

from bilevel.data import ResumableLoader
from bilevel.data import split as split_indices
from bilevel.errors import UserError
from bilevel.settings import Count, Natural
from bilevel.views import taken
from problems import common
from problems.common.method import ComponentValues, DVal, Job, Method, Training, Watch
from problems.common.optimizer_settings import OptimizerSettings
from problems.common.records import Layout, TrainSettings, longest

if TYPE_CHECKING:
    from torch import nn

    from bilevel import BilevelProblem, Hypergradient, ProblemConfig
    from problems.common.build_optimizer import Parameters

__all__ = [
    "Fraction",
    "Level",
    "Parts",
    "TwoLevelMethod",
    "check_acts_through_weights",
    "check_plain_losses",
]

# A share of the data that leaves some for the other level.
Fraction = Annotated[float, Gt(0), Lt(1)]


def check_acts_through_weights(estimator: Hypergradient, who: str, what: str) -> None:
    """Refuse estimators that have nothing for upper variables that stand in no upper loss.

    Args:
        estimator: of the run.
        who: the method, for messages.
        what: its upper variables, in words.

    Raises:
        UserError: the implicit term is zero, or a closed form for gates.
    """
    from bilevel.hypergradient import Alignment

    if estimator.is_zero:
        raise UserError(
            f"hypergradient={estimator.name} would leave {what} where they are, as they act "
            "through the weights: take hypergradient=unrolled"
        )
    if isinstance(estimator, Alignment):
        raise UserError(
            f"hypergradient=alignment needs gated LoRA layers, which method={who} has not: take "
            "hypergradient=unrolled"
        )


def check_plain_losses(settings: TrainSettings, who: str) -> None:
    """Refuse a loss of one's own making where examples are weighted: it is no sum over them here.

    Args:
        settings: of the training.
        who: weights the examples, ``method=source_weights`` say.

    Raises:
        UserError: ``train.label_smoothing``, or ``train.class_weights``.
    """
    if settings.label_smoothing:
        raise UserError(
            f"train.label_smoothing={settings.label_smoothing:g} does not go with {who}, "
            "which weights the plain loss of each example: 0 is allowed"
        )
    if settings.class_weights is not None:
        raise UserError(
            f"train.class_weights does not go with {who}, which weights the plain loss of each "
            "example: leave it at null"
        )


@dataclass(frozen=True)
class Parts:
    """D_train and D_val, the data of the two levels.

    Attributes:
        lower, upper: their batches.
        validation: the examples of D_val.
        sizes: examples of each, for ``Outcome.split``.
    """

    lower: ResumableLoader
    upper: ResumableLoader
    validation: Sequence[dict[str, Any]]
    sizes: dict[str, int]

    @property
    def rows(self) -> Sequence[dict[str, Any]]:
        """The examples of D_train."""
        return taken(self.lower.dataset, self.lower.indices)


@dataclass(frozen=True)
class Level:
    """One of the two levels.

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


Cosine = Annotated[float, Gt(-1), Lt(1)]


@dataclass(frozen=True)
class TwoLevelMethod(Method):
    """A method that trains two levels in turn."""

    split: Fraction | None = 0.8
    """Share of the training data that is D_train, the rest is D_val; null takes the task's own
    validation split as D_val and all of the training data as D_train."""
    unroll_steps: Count = 1
    """T1, lower steps before every upper one."""
    horizon: Cosine | None = None
    """Choose T1 before the training: the least, of 1, 2, 4, ... 32, whose hypergradient has this
    cosine to that of 2 T1 steps (0.9, say); ``unroll_steps=auto`` is the same as 0.9."""
    upper_steps: Count = 1
    """T2, upper steps in a row."""
    warmup_steps: Natural = 0
    """Lower steps before the first upper step."""
    roll_back: bool = False
    """After an upper step, take the last lower step again with the new upper variables."""

    @property
    def needs_whole_base(self) -> str:
        """See :class:`Method`."""
        if self.horizon is not None:
            return "chooses T1 by exact second derivatives; give method.unroll_steps=N"
        return super().needs_whole_base

    def check_size(self, examples: int, batch_size: int) -> None:
        """Both parts of the data need a batch.

        Raises:
            UserError: one of them holds fewer examples.
        """
        super().check_size(examples, batch_size)
        if self.split is None:
            return
        lower = round(self.split * examples)
        if min(lower, examples - lower) < batch_size:
            raise UserError(
                f"method.split={self.split} divides the {examples} training examples into "
                f"{lower} and {examples - lower}, and train.batch_size={batch_size} is more than "
                "the smaller part: give more data, another split or a smaller batch"
            )

    def check_validation(self, examples: int, batch_size: int) -> None:
        """With ``split`` None the task's own validation split is D_val.

        Raises:
            UserError: there is none, or one smaller than a batch.
        """
        if self.split is not None or examples >= batch_size:
            return
        raise UserError(
            "method.split=null takes the task's own validation split, beside its test set, as "
            f"D_val: that must have train.batch_size={batch_size} examples or more, and here are "
            f"{examples or 'none'}; give a share of the training data, method.split=0.8"
        )

    def held_out(self, own: bool) -> DVal:
        """D_val is trained on; a split of the task's own is not, where D_val is a share."""
        return "apart" if own and self.split is not None else "trained_on"

    def check_steps(self, examples: int, settings: TrainSettings) -> None:
        """Nor does a global step hold more lower steps than the epochs have: they mean passes.

        Raises:
            UserError: ``unroll_steps`` is more, or the warm-up.
        """
        steps = super().asked_steps(examples, replace(settings, max_steps=None))
        if self.unroll_steps > steps:
            size = settings.batch_size * settings.gradient_accumulation
            raise UserError(
                f"method.unroll_steps={self.unroll_steps} is more than the {steps} lower steps of "
                f"{settings.epochs:g} epochs with {examples} examples and {size} in a step: one "
                f"global step would make {self.unroll_steps * size / examples:.3g} passes, so take "
                "fewer unroll_steps or more train.epochs"
            )
        super().check_steps(examples, settings)

    def asked_steps(self, examples: int, settings: TrainSettings) -> int:
        """Of the lower level; ``max_steps`` bounds global steps of ``unroll_steps`` each."""
        most = settings.max_steps
        bound = None if most is None else most * self.unroll_steps
        return super().asked_steps(examples, replace(settings, max_steps=bound))

    def upper_variables(self, layout: Layout) -> int | None:
        """Numbers in E, as far as they are known before weights are read; None where not."""
        return None

    def parts(self, job: Job) -> Parts:
        """The data of the two levels: disjoint, stratified by class, decided by the job's seed.

        Raises:
            UserError: as :meth:`check_validation`.
        """
        data = job.data
        if self.split is not None:
            train, held_out = split_indices(len(data.examples), self.split, job.seed, data.labels)
            validation = taken(data.examples, held_out)
            lower, upper = common.loader(job, train), common.loader(job, held_out, stream=1)
        else:
            train, validation = list(range(len(data.examples))), data.validation or ()
            self.check_validation(len(validation), job.settings.batch_size)
            lower, upper = common.loader(job, train), _validation_loader(job, validation)
        sizes = {"train": len(train), "validation": len(validation)}
        return Parts(lower, upper, validation, sizes)

    def steps(self, job: Job) -> int:
        """Global steps in which the lower level takes the steps of one level on all of the data.

        With equal ``train.epochs`` a two-level method's lower level so sees as many examples as
        LoRA does.
        """
        return common.total_steps(job, common.loader(job), job.settings.epochs, self.unroll_steps)

    def lower_config(self, job: Job) -> ProblemConfig:
        """Of the lower level's problem: the estimator works there."""
        return common.problem_config(
            job,
            hypergradient=job.hypergradient,
            unroll_steps=self.unroll_steps,
            warmup_steps=self.warmup_steps,
        )

    def training(
        self,
        job: Job,
        parts: Parts,
        lower: Level,
        upper: Level,
        steps: int,
        model: Any,
        finish: Callable[[dict[str, float]], Any],
        *,
        gates: ComponentValues | None = None,
        watch: Watch | None = None,
    ) -> Training:
        """Both levels, for ``steps`` global steps; the other arguments are :class:`Training`'s.

        Their problems are named ``lower`` and ``upper``, and reach each other by these names.
        """
        warmup = job.settings.warmup_steps
        ratio = job.settings.lora_plus_ratio
        if ratio is not None:
            rate = lower.lr if lower.optimizer.lr is None else lower.optimizer.lr
            groups = common.at_two_rates(lower.module, lower.parameters, rate, ratio)
            lower = replace(lower, parameters=groups)
        lower_optimizer, lower_schedule = common.optimizer_and_scheduler(
            lower.optimizer, lower.parameters, self._standing_steps(steps), lower.lr, warmup
        )
        upper_optimizer, upper_schedule = common.optimizer_and_scheduler(
            upper.optimizer, upper.parameters, self._upper_steps(steps), upper.lr, warmup
        )
        lower_problem = lower.problem(
            "lower",
            self.lower_config(job),
            module=lower.module,
            optimizer=lower_optimizer,
            scheduler=lower_schedule,
            train_data_loader=parts.lower,
        )
        upper_problem = upper.problem(
            "upper",
            common.problem_config(job, steps=self.upper_steps),
            module=upper.module,
            optimizer=upper_optimizer,
            scheduler=upper_schedule,
            train_data_loader=parts.upper,
        )
        return Training(
            problems=[lower_problem, upper_problem],
            dependencies={
                "u2l": {upper_problem: [lower_problem]},
                "l2u": {lower_problem: [upper_problem]},
            },
            steps=steps,
            model=model,
            finish=finish,
            validation=parts.validation,
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
        lengths=[longest(e) for e in examples] if job.settings.group_by_length else None,
    )
