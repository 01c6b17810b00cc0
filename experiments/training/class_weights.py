r"""Weight the classes of a task in training (train.class_weights), so that rare ones count more.

Of classes and tags, of a batch with n labels y_i,

    L = (1/n) sum_i w(y_i) l_i,        l_i = (1 - eps) (-log p(y_i)) + eps mean_c (-log p(c)),

eps the label smoothing. The weights are scaled to a mean of 1 over the labels of the training data,
so that only their ratios matter and a step keeps its size. The batch is not divided by its own
weights, as torch's weighted mean is: a batch that by chance holds one class would then not be
weighted at all, and the micro-batches of a step would not add up to the step.

Of several labels a text, a weight multiplies the terms of a label's presence (``pos_weight``):

    L = -(1/nm) sum_i sum_c  w_c t_ic log p_ic + (1 - t_ic) log(1 - p_ic).

The training losses of both levels are weighted: an upper level that went by plain losses would
choose against what the lower one is to learn. Losses and scores that are shown stay plain, and so
is the upper loss of methods that take it in evaluation mode (learned_settings).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from bilevel.errors import UserError, listed, nearest
from bilevel.labels import NO_LABEL
from experiments.answers import CHOICES, CLASSES, LABELS, NUMBER, SPANS, TAGS, TEXT, Answers

__all__ = ["WeightedLoss", "check_class_weights", "class_weights", "weight_classes"]

log = logging.getLogger(__name__)

SHOWN = 20  # labels in a message
KINDS = {
    NUMBER: "numbers",
    TEXT: "text to write",
    SPANS: "answers in a text",
    CHOICES: "choices, which are others for each question",
}

Given = str | Mapping[str, float] | None


def check_class_weights(given: Given, answers: Answers) -> None:
    """Refuse weights that a task's classes cannot have, before a model is loaded.

    Args:
        given: train.class_weights.
        answers: of the task.

    Raises:
        UserError: the task has no classes, or a weight is missing or of no class.
    """
    if given is None:
        return
    if answers.kind not in (CLASSES, TAGS, LABELS):
        raise UserError(
            f"train.class_weights is for classes and tags, and this task has {KINDS[answers.kind]}:"
            " leave it at null"
        )
    if isinstance(given, str):
        return
    names = list(answers.names or ())
    known = listed(map(repr, names[:SHOWN]))
    known += f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    for name in given:
        if name not in names:
            raise UserError(
                f"train.class_weights has a weight for {name!r}, which is no label of the training "
                f"data: they are {known}{nearest(name, names)}"
            )
    absent = [name for name in names if name not in given]
    if absent:
        raise UserError(
            f"train.class_weights has no weight for {listed(map(repr, absent[:SHOWN]))}: give each "
            f"of {known} one, or take train.class_weights=balanced"
        )


def class_weights(given: Given, answers: Answers, labels: Sequence[Any]) -> Tensor | None:
    """The weight of each class, float32 (C,); None without any.

    ``balanced`` gives a class with n_c of the n labels n / (C n_c), and a label that n_c of n texts
    have (n - n_c) / n_c. One that no training example has gets 1.

    Args:
        given: train.class_weights, checked.
        answers: of the task.
        labels: of the tokenised training examples: a number, one a token (-100 for none), or a
            mark for each label.
    """
    if given is None:
        return None
    names = list(answers.names or ())
    if answers.kind == LABELS:
        marks = np.asarray(labels)
        counts = marks.sum(0)
        balanced = (len(marks) - counts) / np.maximum(counts, 1)
    else:
        numbers = np.concatenate([np.atleast_1d(row) for row in labels])
        counts = np.bincount(numbers[numbers != NO_LABEL], minlength=len(names))
        balanced = counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1))
    if isinstance(given, str):
        weights = np.where(counts > 0, balanced, 1.0)
        # Of a label that every text has, nothing is missing that its weight could make up for.
        weights[weights == 0] = 1.0
    else:
        weights = np.array([given[name] for name in names])
        if answers.kind != LABELS:
            weights = weights * counts.sum() / (weights * counts).sum()
    unseen = [name for name, count in zip(names, counts, strict=True) if not count]
    if unseen and isinstance(given, str):
        log.warning(
            "train.class_weights=balanced: no training example has %s, whose weight is 1",
            listed(map(repr, unseen[:SHOWN])),
        )
    shown = ", ".join(f"{n} {w:.3g}" for n, w in zip(names[:SHOWN], weights, strict=False))
    log.info("class weights in training: %s%s", shown, ", ..." if len(names) > SHOWN else "")
    return torch.tensor(weights, dtype=torch.float32)


class WeightedLoss:
    """A forward hook that puts the weighted loss in the place of a model's own, in training.

    An object, to be registered ``with_kwargs``, so that models can be copied.

    Args:
        weights: (C,).
        epsilon: of label smoothing, in [0, 1); 0 for several labels a text.
    """

    def __init__(self, weights: Tensor, epsilon: float = 0.0) -> None:
        self.weights = weights
        self.epsilon = epsilon

    def __call__(self, module: Any, args: Any, kwargs: dict[str, Any], outputs: Any) -> Any:
        """Put the loss in its place."""
        labels = kwargs.get("labels")
        if not module.training or labels is None:
            return outputs
        logits = outputs.logits
        logits = logits if logits.element_size() >= 4 else logits.float()  # not of half precision
        self.weights = self.weights.to(logits)
        if labels.is_floating_point():
            outputs.loss = functional.binary_cross_entropy_with_logits(
                logits, labels.to(logits), pos_weight=self.weights
            )
            return outputs
        logits, labels = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
        each = functional.cross_entropy(
            logits, labels, reduction="none", label_smoothing=self.epsilon
        )
        counted = labels != NO_LABEL
        of_each = self.weights[labels.clamp(min=0)] * counted
        outputs.loss = (of_each * each).sum() / counted.sum()
        return outputs


def weight_classes(model: PreTrainedModel, weights: Tensor | None, epsilon: float) -> None:
    """Make ``model`` weight its classes in training; None changes nothing.

    Args:
        model: its outputs have ``loss`` and ``logits``, its input ``labels``.
        weights: of :func:`class_weights`.
        epsilon: train.label_smoothing, which this takes the place of.
    """
    if weights is not None:
        model.register_forward_hook(WeightedLoss(weights, epsilon), with_kwargs=True)
