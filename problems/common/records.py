"""Carry data and settings from the application into a method, and what it leaves behind back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Gt, Le

from bilevel.settings import Count, Natural, NonNegative, Passes, Positive, Rate, Settings, Share

if TYPE_CHECKING:
    from torch import Tensor

    from bilevel.cutting import Cut

__all__ = [
    "LOWEST",
    "SOURCE_WEIGHT",
    "Layout",
    "Outcome",
    "TrainData",
    "TrainSettings",
    "ValidationScores",
    "longest",
    "tokens_of",
]

# in what a stage ends with: what engine.choose_by names, turned so that the lowest is the best
LOWEST = "lowest"
SOURCE_WEIGHT = "source_weight "  # before a source's name, in what a method watches


@dataclass(frozen=True)
class Layout:
    """What is to be trained on what, as far as it is known before any weights are read.

    Attributes:
        modules: full names of the linear maps that are to be adapted, and how many numbers each of
            them puts out.
        head: whether there is a head, which is trained in full.
        examples: for training.
        sources: that these are from; 0 where the data name none.
    """

    modules: Mapping[str, int]
    head: bool
    examples: int
    sources: int = 0


@dataclass(frozen=True)
class TrainData:
    """Tokenised training examples, D_train and D_val together.

    Attributes:
        examples: dicts of token ids, masks and ``labels``, unpadded.
        collate: makes a padded batch of tensors out of examples.
        labels: classes to stratify splits by; None for regression.
        lengths: tokens of each example, for grouping by length: of one of several parts (windows of
            a text, choices) those of the longest.
        validation: the task's own validation split where it has one besides its test set.
        weights: of the examples in the loss, for a method that ``takes_weights``; None for equal
            ones.
        sources: the source of each example by name, where the user's data have several.
        draw_weights: of the examples in the drawing of batches; None draws each once an epoch.
        seen: marks (:mod:`problems.common.same_examples`) of what the weights that training begins
            with were trained on before.
    """

    examples: Sequence[dict[str, Any]]
    collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]]
    labels: Sequence[int] | None
    lengths: Sequence[int]
    validation: Sequence[dict[str, Any]] | None = None
    weights: Sequence[float] | None = None
    sources: Sequence[str] | None = None
    draw_weights: Sequence[float] | None = None
    seen: Collection[str] = ()


def tokens_of(row: Mapping[str, Any]) -> list[int]:
    """All tokens of a tokenised example, of its windows or choices one after the other."""
    ids: list[Any] = row["input_ids"]
    return [token for part in ids for token in part] if ids and isinstance(ids[0], list) else ids


def longest(row: Mapping[str, Any]) -> int:
    """Tokens of a tokenised example, or of the longest of its windows or choices."""
    ids = row["input_ids"]
    return max(map(len, ids)) if ids and isinstance(ids[0], list) else len(ids)


@dataclass(frozen=True)
class TrainSettings(Settings):
    """How long and in what portions to train, for every stage of every method."""

    epochs: Passes = 5.0
    """Passes over the stage's lower-level data (a method may override it for a stage)."""
    max_steps: Count | None = None
    """Upper bound on a stage's global steps; null for none."""
    batch_size: Count = 16
    """Examples in a batch of either level; of each process where a launcher starts several."""
    gradient_accumulation: Count = 1
    """Batches in one optimiser step; the last step of an epoch takes those that are left."""
    gradient_clipping: NonNegative = 0.0
    """Global gradient norm; 0 for no clipping."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the forward and backward passes; auto follows the model and device."""
    group_by_length: bool = True
    """Make batches of examples of similar length."""
    lr: Rate | None = None
    """Learning rate of low-rank factors and head where the method names none."""
    label_smoothing: Share = 0.0
    """Weight of the uniform distribution in the training loss."""
    lora_plus_ratio: Annotated[float, Gt(0), Le(1e6)] | None = None
    """Learning rate of LoRA's B over that of A and of all else (LoRA+, arXiv 2402.12354: 16); null
    for one rate of both."""
    class_weights: Literal["balanced"] | dict[str, Positive] | None = None
    """Weights of the classes, tags or labels in the training loss of every level: balanced, each as
    much as every other, or one for each by its name; only their ratios matter. null: equal ones."""
    warmup_steps: Natural | None = None
    """Optimiser steps in which every learning rate with a warm-up rises from 0, of each level its
    own; null leaves it to each optimiser's warmup_ratio."""


@dataclass(frozen=True)
class ValidationScores:
    """What a method that trains without the engine, which would see to it, scored on D_val.

    Attributes:
        rows: the tokenised examples of D_val.
        source: the task's own validation split, or a part of the training data.
        scores: of :meth:`problems.common.method.Job.scores`.
    """

    rows: Sequence[dict[str, Any]]
    source: Literal["validation", "training"]
    scores: dict[str, float | None]


@dataclass
class Outcome:
    """What a method leaves behind.

    How it is saved follows from the model: plain LoRA as two PEFT adapters of one update, any other
    PEFT model as PEFT saves it, a plain transformers model as transformers does.

    Attributes:
        model: the fine-tuned model, a ``PeftModel`` or a plain transformers model.
        ranks: rank of every adapted module, by its name in the base model; None without ranks.
        trainable_parameters: trained at once, over all levels, at the most.
        validation_loss: of the upper level's data at the end of its last stage; None without one.
        validation_stage: the stage whose scores on validation data are the run's; None for the last
            that has some.
        split: examples in the parts of the training data.
        keep: layer -> boolean mask (r,) of the components that are saved (plain LoRA only); None
            keeps all that are not exactly zero.
        cut: what was cut off a trained adapter and why; None without.
        cut_by: the examples that drew the frontier of the cut, in words.
        lora: options of ``method=lora`` that train the same again, plain values; of methods that
            have found settings.
        validation_trained_on: the weights were trained on the held-out part of the training data
            in the end, after they were last scored on it.
        example_weights: learned ones of the training examples, (n,), in their order; None without.
        source_weights: learned ones of the sources, which sum to 1; None without.
        source_examples: source -> its examples in D_train, beside them.
        validation_scores: of a method that trains without the engine; None leaves it to that.
        probe: what ``method=linear_probe`` chose, plain values.
    """

    model: Any
    ranks: dict[str, int] | None
    trainable_parameters: int
    validation_loss: float | None = None
    validation_stage: str | None = None
    split: dict[str, int] = field(default_factory=dict)
    keep: dict[str, Tensor] | None = None
    cut: Cut | None = None
    cut_by: str = ""
    validation_trained_on: bool = False
    example_weights: Tensor | None = None
    lora: dict[str, Any] | None = None
    source_weights: dict[str, float] | None = None
    source_examples: dict[str, int] | None = None
    validation_scores: ValidationScores | None = None
    probe: dict[str, Any] | None = None

    def after(self, found: Mapping[str, Any], **changes: Any) -> Outcome:
        """The same, but for the loss of a stage before on D_val, and its parameters if more.

        Args:
            found: by that stage, ``validation_loss`` and ``trainable_parameters`` among it.
            **changes: of other attributes.
        """
        return replace(
            self,
            trainable_parameters=max(self.trainable_parameters, found["trainable_parameters"]),
            validation_loss=found["validation_loss"],
            **changes,
        )
