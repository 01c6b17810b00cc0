"""What a method is, what it is given, and the pieces most methods share.

A method is a sequence of stages; a stage is a set of Betty problems trained for some steps. A
method knows nothing of the task: it is handed a :class:`Job` and returns an :class:`Outcome`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from bilevel import BilevelProblem, Hypergradient, LowerProblem, ProblemConfig, ResumableLoader
from bilevel.errors import UserError
from bilevel.lowrank.fused import built_of_conv1d
from problems.common.optimizer_settings import check_range
from problems.common.records import Outcome, TrainData, TrainSettings

__all__ = [
    "ComponentValues",
    "FineTuning",
    "Job",
    "Method",
    "Outcome",
    "StageRunner",
    "TrainData",
    "TrainSettings",
    "add_lora",
    "loader",
    "problem_config",
    "steps_per_epoch",
    "with_lora",
]

T = TypeVar("T")

# What a method may want drawn over the steps: name -> number, read about a hundred times a stage.
Watch = Callable[[], Mapping[str, "float | Tensor"]]


class ComponentValues(Protocol):
    """One number for each component of each layer, to be drawn over the steps.

    Attributes:
        names: the n layers.
    """

    names: list[str]

    def values(self) -> Tensor:
        """The numbers now, (n, k)."""


class StageRunner(Protocol):
    """Runs the problems of one stage, with whatever watching and saving the application does."""

    def run(
        self,
        problems: Sequence[BilevelProblem],
        dependencies: dict[str, dict[Any, list[Any]]],
        steps: int,
        model: Any,
        *,
        validation: Sequence[dict[str, Any]] = (),
        gates: ComponentValues | None = None,
        watch: Watch | None = None,
        roll_back: bool = False,
    ) -> dict[str, float]:
        """Train for ``steps`` global steps; evaluate ``model`` now and then and at the end.

        ``validation`` are the upper level's examples (their loss is reported as
        ``validation_loss``), ``gates`` and ``watch`` are logged over time. Returns the last
        evaluation.
        """


class Job(Protocol):
    """What the application hands to a method.

    Attributes:
        head_modules: trained and saved in full; none where the model brings its own outputs.
        task_type: PEFT's name for what the model puts out; None leaves the model unwrapped.
    """

    seed: int
    data: TrainData
    settings: TrainSettings
    hypergradient: Hypergradient
    target_modules: list[str]
    head_modules: list[str]
    task_type: str | None

    def build_model(self) -> PreTrainedModel:
        """A fresh pretrained model with its head, the same at every call."""

    def stage(self, name: str, body: Callable[[StageRunner], T], last: bool = False) -> T:
        """Run a stage and return what its body returns (plain JSON-able data unless ``last``).

        A resumed run gets the saved result of a finished stage; the last stage is always entered,
        so that its model is there.
        """


class Method(ABC):
    """A fine-tuning method; subclasses are dataclasses of their settings.

    Attributes:
        name: the method's name.
        targets: where its adapters go ("qv", "all") unless ``train.target_modules`` says otherwise;
            None for "qv".
        splits_fused: it is given GPT-2's fused query-key-value projection as three maps, so that
            query and value have ranks of their own; only for methods that leave plain LoRA, which
            is put together again when saved. False: the fused projection is one matrix.
        trains_weights: it changes the pretrained weights themselves, which therefore must not be
            quantised.
        reads_weights: it computes with the pretrained weights themselves (norms, say), not only
            with what a layer puts out.
        takes_targets: its adapters go where ``train.target_modules`` says; False for a method that
            has places of its own.
    """

    name: ClassVar[str] = ""
    targets: ClassVar[str | None] = None
    splits_fused: ClassVar[bool] = False
    trains_weights: ClassVar[bool] = False
    reads_weights: ClassVar[bool] = False
    takes_targets: ClassVar[bool] = True

    def check_hypergradient(self, estimator: Hypergradient) -> None:  # noqa: B027 (most take all)
        """Refuse an estimator that cannot serve this method, before anything is loaded.

        Raises:
            UserError: it cannot; the message names one that can.
        """

    def check_size(self, examples: int, batch_size: int) -> None:
        """Refuse a training set that is too small, before a model is loaded.

        Raises:
            UserError: there are none, or fewer than one batch holds.
        """
        if not examples:
            raise UserError(
                f"there is no training data for method {self.name}: give some, or score the model "
                "as it is by method=pretrained"
            )
        if examples < batch_size:
            raise UserError(
                f"the training set has {examples} examples, fewer than "
                f"train.batch_size={batch_size}: give more data or a smaller batch"
            )

    @abstractmethod
    def run(self, job: Job) -> Outcome:
        """Train on the job's data and return the fine-tuned model."""


class FineTuning(LowerProblem):
    """The task's loss of a transformers model; its trainable parameters are one level's."""

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """The model's own loss on a batch with ``labels``."""
        return self.module(**batch).loss


def loader(job: Job, indices: Sequence[int] | None = None, stream: int = 0) -> ResumableLoader:
    """Shuffled batches of the job's data, or of ``indices`` of it.

    ``stream`` tells apart loaders that should not see their data in related orders.
    """
    data = job.data
    return ResumableLoader(
        data.examples,
        batch_size=job.settings.batch_size,
        collate=data.collate,
        seed=job.seed + 1000 * stream,
        lengths=data.lengths if job.settings.group_by_length else None,
        indices=indices,
    )


def steps_per_epoch(job: Job, batches: ResumableLoader) -> int:
    """Optimiser steps in an epoch."""
    return max(1, len(batches) // job.settings.gradient_accumulation)


def total_steps(job: Job, batches: ResumableLoader, epochs: float, unroll_steps: int = 1) -> int:
    """Global steps in ``epochs`` passes, T1 = ``unroll_steps`` lower steps each."""
    steps = max(1, math.ceil(epochs * steps_per_epoch(job, batches) / unroll_steps))
    return steps if job.settings.max_steps is None else min(steps, job.settings.max_steps)


def problem_config(job: Job, **values: Any) -> ProblemConfig:
    """A problem's config with the job's precision, accumulation and clipping."""
    settings = job.settings
    return ProblemConfig(
        precision=settings.precision,
        gradient_accumulation=settings.gradient_accumulation,
        gradient_clipping=settings.gradient_clipping,
        **values,
    )


def check_lora(rank: int, dropout: float) -> None:
    """Raise UserError for settings that no LoRA layer can have."""
    check_range("rank", rank, rank >= 1, "1 or more")
    check_range("lora_dropout", dropout, 0 <= dropout < 1, "in [0, 1)")


def add_lora(job: Job, model: PreTrainedModel, **options: Any) -> PeftModel:
    """Inject LoRA into the job's target modules (or those in ``options``), head trainable."""
    options.setdefault("target_modules", job.target_modules)
    options.setdefault("fan_in_fan_out", built_of_conv1d(model))
    config = LoraConfig(
        task_type=job.task_type,
        modules_to_save=list(job.head_modules) or None,
        **options,
    )
    return get_peft_model(model, config)


def with_lora(job: Job, rank: int, alpha: float, dropout: float, **options: Any) -> PeftModel:
    """The job's pretrained model with LoRA of this size, injected by :func:`add_lora`."""
    sizes = {"r": rank, "lora_alpha": alpha, "lora_dropout": dropout}
    return add_lora(job, job.build_model(), **sizes, **options)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Parameters that require a gradient."""
    return [p for p in model.parameters() if p.requires_grad]


def count(parameters: Sequence[Tensor]) -> int:
    """Number of elements."""
    return sum(p.numel() for p in parameters)
