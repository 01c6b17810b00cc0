"""Say what a method is: named stages of training, prepared out of what the application hands it.

A method is a sequence of stages; a stage prepares Betty problems, which the application trains for
some steps. A method knows nothing of the task: it reads a :class:`Job`, and its last stage ends in
an :class:`Outcome`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from bilevel.errors import UserError
from bilevel.settings import Settings
from problems.common.records import Outcome, TrainData, TrainSettings

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from bilevel import BilevelProblem, Hypergradient
    from bilevel.cutting import Losses
    from bilevel.cutting.decided import RankChoice

__all__ = ["AnswerKind", "ComponentValues", "DVal", "Job", "Method", "Stage", "Training", "Watch"]

# Validation data: there is none, levels train on all of it, or some is kept apart from all levels.
DVal = Literal["nothing", "trained_on", "apart"]
# Classes or a number of a text, any number of classes, a class for each word, or words.
AnswerKind = Literal["classes", "number", "labels", "tags", "text", "spans", "choices"]
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

    @property
    def device(self) -> torch.device:
        """Where models are trained."""

    @property
    def kind(self) -> AnswerKind:
        """What the task wants of the model."""

    def build_model(self) -> PreTrainedModel:
        """A fresh pretrained model with its head, the same at every call."""

    def outputs(
        self, model: nn.Module, rows: Sequence[dict[str, Any]]
    ) -> Iterator[tuple[list[int], Any, dict[str, Tensor]]]:
        """Indices, outputs and batch, of all rows in batches of like length, without gradients.

        The model is in evaluation mode meanwhile; nothing is trained by it.
        """

    def scores(self, model: nn.Module, rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
        """``loss`` and the task's metrics on some of the job's tokenised examples.

        For a method that trains without the engine; None is a metric that cannot be computed.
        """

    def losses(self, model: nn.Module, rows: Sequence[dict[str, Any]]) -> Losses:
        """The task's loss of each of some tokenised examples, in evaluation mode.

        For what a method decides between its stages; nothing is trained by it.
        """

    def example_losses(self, outputs: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The task's loss of each example of a batch, to be trained by.

        Args:
            outputs: of the model.
            batch: what it was given, ``labels`` included.

        Returns:
            Sums of losses, (n,), and of how many (words, tokens, or 1) each is the sum, (n,).
        """


@dataclass(frozen=True)
class Training:
    """A stage that is ready to run.

    Attributes:
        problems: the levels, lower ones first.
        dependencies: their graph, Betty's ``{"u2l": ..., "l2u": ...}``.
        steps: global steps to train for.
        model: what is evaluated now and then, and at the end.
        finish: makes the last evaluation into what the stage found: plain JSON data and tensors for
            the stage after it, an :class:`Outcome` for the last stage.
        validation: the upper level's examples; their loss is the evaluation's ``validation_loss``.
        gates: selection variables, singular values or gates to record over time.
        watch: other numbers to record over time.
        roll_back: take the last lower step again after an upper step.
        settled: global steps until the model has the form that is saved (gates closed, a budget
            reached): the best weights are those of a later evaluation, and early stopping waits.
        patience: evaluations without a better score on the validation data before the stage ends;
            None leaves it to ``engine.early_stopping``.
        upper_window: the global steps in which the upper level steps, first and end; None for all.
        diverged: makes what the stage found where a loss or gradient was not finite, in one
            process; None: that ends the run.
    """

    problems: Sequence[BilevelProblem]
    dependencies: dict[str, dict[Any, list[Any]]]
    steps: int
    model: Any
    finish: Callable[[dict[str, float]], Any]
    validation: Sequence[dict[str, Any]] = ()
    gates: ComponentValues | None = None
    watch: Watch | None = None
    roll_back: bool = False
    settled: int = 0
    patience: int | None = None
    upper_window: tuple[int, int] | None = None
    diverged: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Stage:
    """A named part of a method's training.

    Attributes:
        name: in logs, metrics, checkpoints and result.json.
        prepare: called with the job and what the stage before found (None for the first), right
            after the seed is set; gives a :class:`Training`, or what the stage found where there is
            nothing to train: an :class:`Outcome` for the last stage.
    """

    name: str
    prepare: Callable[[Job, Any], Training | Outcome | dict[str, Any]]


@dataclass(frozen=True)
class Method(Settings, ABC):
    """A fine-tuning method; subclasses are frozen dataclasses of their settings.

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
        takes_weights: it trains under ``TrainData.weights``; the others would pass over them.
        two_rates: it trains LoRA's A and B, which ``train.lora_plus_ratio`` gives a rate each.
        virtual_tokens: positions that the method's own tokens take from the text.
        streams: its training data may come one after the other, and never another way.
        inexact: why even ``unrolled`` is not the derivative of this method's run, where it is not.
    """

    name: ClassVar[str] = ""
    targets: ClassVar[str | None] = None
    splits_fused: ClassVar[bool] = False
    trains_weights: ClassVar[bool] = False
    reads_weights: ClassVar[bool] = False
    takes_targets: ClassVar[bool] = True
    takes_weights: ClassVar[bool] = False
    two_rates: ClassVar[bool] = False
    virtual_tokens: ClassVar[int] = 0
    streams: ClassVar[bool] = True
    inexact: ClassVar[str] = ""

    @property
    def moves_base(self) -> bool:
        """Whether it starts by moving a part of the pretrained weights into its own."""
        return False

    @property
    def needs_whole_base(self) -> str:
        """Why the pretrained weights must lie whole in each process; empty where they need not.

        It stands behind the method's name in a refusal of ``engine.shard=base``, and names the way
        out.
        """
        if self.trains_weights:
            return "trains the model's own weights; take a method with adapters, method=lora"
        if self.moves_base:
            return (
                "takes a part of the pretrained weights into the factors; take "
                "method.peft.init_lora_weights=true"
            )
        return ""

    def check_hypergradient(self, estimator: Hypergradient) -> None:
        """Refuse an estimator that cannot serve this method, before anything is loaded.

        Raises:
            UserError: it cannot; the message names one that can.
        """

    def check_answers(self, kind: str) -> None:
        """Refuse answers that the method cannot give, before a model is loaded.

        Args:
            kind: what the task wants, an ``AnswerKind``.

        Raises:
            UserError: it cannot.
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

    def check_validation(self, examples: int, batch_size: int) -> None:
        """Refuse a task's own validation split that will not do, before a model is loaded.

        Args:
            examples: in it; 0 where there is none.
            batch_size: of either level.

        Raises:
            UserError: the method is to train on it, and it has fewer examples than a batch.
        """

    def check_sources(self, sizes: Mapping[str, int] | None, drawn: bool) -> None:
        """Refuse training data by their sources, before a model is loaded.

        Args:
            sizes: source -> its examples; None where sources have no names.
            drawn: whether they have weights to be drawn by.

        Raises:
            UserError: the method needs sources that there are not.
        """

    def check_drawn_validation(self) -> None:
        """Refuse a validation split drawn at random from all of the data, before a model is loaded.

        Raises:
            UserError: the method learns something from it that it cannot say.
        """

    def held_out(self, own: bool) -> DVal | None:
        """What validation data its stages have; None: only they can tell.

        Args:
            own: whether the task has a validation split of its own beside its test set.

        Returns:
            ``apart`` where a stage has some that none of its levels trains on, ``trained_on``
            where an upper level trains on all there is, ``nothing`` where there is none.
        """
        return "apart" if own else None

    def rank_choice(self) -> RankChoice | None:
        """How ranks come from the values that it records, so that it can be told how far they are
        decided; None for a method that chooses none."""
        return None

    def check_steps(self, examples: int, settings: TrainSettings) -> None:
        """Refuse what takes more steps than the training has, before a model is loaded.

        Args:
            examples: of the training data.
            settings: how long to train, in what portions.

        Raises:
            UserError: the warm-up does.
        """
        steps = self.asked_steps(examples, settings)
        if settings.warmup_steps is not None and settings.warmup_steps > steps:
            raise UserError(
                f"train.warmup_steps={settings.warmup_steps} is more than the {steps} optimiser "
                f"steps of the training ({examples} examples, train.epochs={settings.epochs:g}): "
                "give fewer, or null, which leaves it to warmup_ratio"
            )

    def asked_steps(self, examples: int, settings: TrainSettings) -> int:
        """Optimiser steps of the weights in the passes asked for, a last incomplete one counted."""
        a_pass: float = examples / settings.batch_size
        if settings.gradient_accumulation > 1:  # the last step of a pass takes what is left
            a_pass = math.ceil(a_pass / settings.gradient_accumulation)
        steps = max(1, math.ceil(settings.epochs * a_pass))
        return steps if settings.max_steps is None else min(steps, settings.max_steps)

    def check_model(self, model: PreTrainedModel, target_modules: Sequence[str]) -> None:
        """Refuse a model that the method cannot adapt, before anything is trained.

        Args:
            model: the pretrained model.
            target_modules: full names of the linear maps that are to be adapted.

        Raises:
            UserError: it cannot.
        """

    @abstractmethod
    def stages(self) -> Sequence[Stage]:
        """The stages in order; the last one ends in the :class:`Outcome`."""
