"""What a method is, what it is given, and the pieces most methods share.

A method is a sequence of stages; a stage is a set of Betty problems trained for some steps. A
method knows nothing of the task: it is handed a :class:`Job` and returns an :class:`Outcome`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel, get_scheduler

from bilevel import BilevelProblem, Hypergradient, LowerProblem, ProblemConfig, ResumableLoader
from bilevel.errors import UserError
from bilevel.lowrank import Gates

__all__ = [
    "FineTuning",
    "Job",
    "Method",
    "OptimizerSettings",
    "Outcome",
    "StageRunner",
    "TrainData",
    "TrainSettings",
    "add_lora",
    "loader",
    "optimizer_and_scheduler",
    "problem_config",
    "steps_per_epoch",
]

T = TypeVar("T")

OPTIMIZERS = ("adamw", "adam", "sgd")
# Of transformers' schedules those that need nothing but the number of steps.
SCHEDULES = (
    *("linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt"),
    *("constant", "constant_with_warmup"),
)


def check_choice(what: str, value: str, allowed: Sequence[str]) -> None:
    """Raise UserError unless a setting is one of those allowed."""
    if value not in allowed:
        raise UserError(f"unknown {what} {value!r}; allowed: {', '.join(allowed)}")


def check_range(what: str, value: Any, fits: bool, range_: str) -> None:
    """Raise UserError unless a setting's value ``fits`` its range."""
    if not fits:
        raise UserError(f"{what} must be {range_}, got {value}")


@dataclass(frozen=True)
class TrainData:
    """Tokenised training examples, D_train and D_val together.

    Attributes:
        examples: dicts of token ids, masks and ``labels``, unpadded.
        collate: makes a padded batch of tensors out of examples.
        labels: classes to stratify splits by; None for regression.
        lengths: tokens of each example, for grouping by length.
    """

    examples: Sequence[dict[str, Any]]
    collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]]
    labels: Sequence[int] | None
    lengths: Sequence[int]


@dataclass(frozen=True)
class TrainSettings:
    """How long and in what portions to train, for every stage of every method.

    Attributes:
        epochs: passes over the stage's lower-level data (a method may override it for a stage).
        max_steps: upper bound on a stage's global steps; None for none.
        batch_size: examples in a batch of either level.
        gradient_accumulation: batches in one optimiser step.
        gradient_clipping: global gradient norm; 0 for no clipping.
        precision: fp32, bf16, fp16 or auto.
        group_by_length: batches of examples of similar length.
        lr: learning rate of low-rank factors and head where the method names none.
    """

    epochs: float = 5.0
    max_steps: int | None = None
    batch_size: int = 16
    gradient_accumulation: int = 1
    gradient_clipping: float = 0.0
    precision: str = "auto"
    group_by_length: bool = True
    lr: float | None = None


@dataclass(frozen=True)
class OptimizerSettings:
    """An optimiser with its schedule.

    Attributes:
        name: adamw, adam or sgd (torch.optim's).
        lr: learning rate; None takes the job's.
        betas, eps: of Adam and AdamW. momentum: of SGD.
        weight_decay: decoupled for adamw, L2 otherwise.
        schedule: one of transformers' schedules: linear, cosine, cosine_with_restarts, polynomial,
            inverse_sqrt, constant, constant_with_warmup.
        warmup_ratio: share of the steps in which the learning rate rises from 0.

    Raises:
        UserError: an unknown optimiser or schedule, or a number out of range.
    """

    name: str = "adamw"
    lr: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: str = "linear"
    warmup_ratio: float = 0.06

    def __post_init__(self) -> None:
        check_choice("optimizer", self.name, OPTIMIZERS)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_range("lr", self.lr, self.lr is None or self.lr > 0, "more than 0")
        for name in ("eps", "momentum", "weight_decay"):
            check_range(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        within = all(0 <= beta < 1 for beta in self.betas)
        check_range("betas", list(self.betas), within, "in [0, 1)")
        check_range("warmup_ratio", self.warmup_ratio, 0 <= self.warmup_ratio <= 1, "in [0, 1]")


@dataclass
class Outcome:
    """What a method leaves behind.

    Attributes:
        model: the fine-tuned model with its adapter.
        ranks: rank of every adapted module, by its name in the base model; None without ranks.
        trainable_parameters: trained at once, over all levels, at the most.
        validation_loss: of the upper level's data at the end of its last stage; None without one.
        split: examples in the parts of the training data.
    """

    model: PeftModel
    ranks: dict[str, int] | None
    trainable_parameters: int
    validation_loss: float | None = None
    split: dict[str, int] = field(default_factory=dict)


class StageRunner(Protocol):
    """Runs the problems of one stage, with whatever watching and saving the application does."""

    def run(
        self,
        problems: Sequence[BilevelProblem],
        dependencies: dict[str, dict[Any, list[Any]]],
        steps: int,
        model: PeftModel,
        *,
        validation: Sequence[dict[str, Any]] = (),
        gates: Gates | None = None,
        roll_back: bool = False,
    ) -> dict[str, float]:
        """Train for ``steps`` global steps; evaluate ``model`` now and then and at the end.

        ``validation`` are the upper level's examples (their loss is reported as
        ``validation_loss``), ``gates`` are logged over time. Returns the last evaluation.
        """


class Job(Protocol):
    """What the application hands to a method."""

    seed: int
    data: TrainData
    settings: TrainSettings
    hypergradient: Hypergradient
    target_modules: list[str]
    head_modules: list[str]

    def build_model(self) -> PreTrainedModel:
        """A fresh pretrained model with its head, the same at every call."""

    def stage(self, name: str, body: Callable[[StageRunner], T], last: bool = False) -> T:
        """Run a stage and return what its body returns (plain JSON-able data unless ``last``).

        A resumed run gets the saved result of a finished stage; the last stage is always entered,
        so that its model is there.
        """


class Method(ABC):
    """A fine-tuning method; subclasses are dataclasses of their settings."""

    name: ClassVar[str] = ""

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
    config = LoraConfig(
        task_type="SEQ_CLS" if job.head_modules else None,
        modules_to_save=list(job.head_modules) or None,
        **options,
    )
    return get_peft_model(model, config)


def optimizer_and_scheduler(
    settings: OptimizerSettings,
    parameters: Sequence[nn.Parameter],
    steps: int,
    default_lr: float | None,
) -> tuple[torch.optim.Optimizer, Any]:
    """Build the optimiser and its schedule over ``steps`` optimiser steps.

    Raises:
        UserError: no learning rate.
    """
    lr = settings.lr if settings.lr is not None else default_lr
    if lr is None:
        raise UserError("no learning rate is set: give the method's lr or train.lr")
    if settings.name in ("adamw", "adam"):
        cls = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
        optimizer: torch.optim.Optimizer = cls(
            parameters,
            lr=lr,
            betas=(settings.betas[0], settings.betas[1]),
            eps=settings.eps,
            weight_decay=settings.weight_decay,
        )
    else:
        optimizer = torch.optim.SGD(
            parameters, lr=lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
    scheduler = get_scheduler(
        settings.schedule,
        optimizer,
        num_warmup_steps=int(settings.warmup_ratio * steps),
        num_training_steps=steps,
    )
    return optimizer, scheduler


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Parameters that require a gradient."""
    return [p for p in model.parameters() if p.requires_grad]


def count(parameters: Sequence[Tensor]) -> int:
    """Number of elements."""
    return sum(p.numel() for p in parameters)
