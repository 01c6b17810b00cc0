"""What passes between the application and a method: data and settings in, an outcome out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from bilevel.errors import UserError

__all__ = ["Outcome", "TrainData", "TrainSettings"]

COUNTS = {"max_steps": 1, "batch_size": 1, "gradient_accumulation": 1, "warmup_steps": 0}


@dataclass(frozen=True)
class TrainData:
    """Tokenised training examples, D_train and D_val together.

    Attributes:
        examples: dicts of token ids, masks and ``labels``, unpadded.
        collate: makes a padded batch of tensors out of examples.
        labels: classes to stratify splits by; None for regression.
        lengths: tokens of each example, for grouping by length.
        validation: the task's own validation split where it has one besides its test set.
    """

    examples: Sequence[dict[str, Any]]
    collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]]
    labels: Sequence[int] | None
    lengths: Sequence[int]
    validation: Sequence[dict[str, Any]] | None = None


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
        label_smoothing: weight of the uniform distribution in the training loss, in [0, 1).
        warmup_steps: optimiser steps in which every learning rate with a warm-up rises from 0, of
            each level its own; None leaves it to each optimiser's warmup_ratio.
    """

    epochs: float = 5.0
    max_steps: int | None = None
    batch_size: int = 16
    gradient_accumulation: int = 1
    gradient_clipping: float = 0.0
    precision: str = "auto"
    group_by_length: bool = True
    lr: float | None = None
    label_smoothing: float = 0.0
    warmup_steps: int | None = None

    def __post_init__(self) -> None:
        for name, least in COUNTS.items():
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= least):
                raise UserError(f"{name}={value}: this must be a whole number of {least} or more")
        for name in ("epochs", "lr"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"{name}={value}: this must be more than 0, and finite")
        if not 0 <= self.gradient_clipping < math.inf:
            raise UserError(f"gradient_clipping={self.gradient_clipping}: this must be 0 or more")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"label_smoothing={self.label_smoothing}: this must be in [0, 1)")


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
        split: examples in the parts of the training data.
        keep: layer -> boolean mask (r,) of the components that are saved (plain LoRA only); None
            keeps all that are not exactly zero.
    """

    model: Any
    ranks: dict[str, int] | None
    trainable_parameters: int
    validation_loss: float | None = None
    split: dict[str, int] = field(default_factory=dict)
    keep: dict[str, Tensor] | None = None
