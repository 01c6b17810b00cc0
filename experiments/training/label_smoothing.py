"""Smooth the labels of a task in training by a number that is given (train.label_smoothing)."""

from __future__ import annotations

from transformers import PreTrainedModel

from bilevel.errors import UserError
from experiments.answers import LABELS, NUMBER, SPANS, TEXT, Answers
from problems.lora_settings.smoothed_loss import SmoothedLoss

__all__ = ["check_smoothing", "smooth_labels"]


def check_smoothing(epsilon: float, answers: Answers) -> None:
    """Raise UserError for a number, sets of labels or places in a text, which are not smoothed."""
    whats = {NUMBER: "numbers", LABELS: "several labels a text", SPANS: "answers in a text"}
    if epsilon and answers.kind in whats:
        what = whats[answers.kind]
        raise UserError(
            f"train.label_smoothing={epsilon}: a task of {what} has no classes to smooth, use 0"
        )


def smooth_labels(model: PreTrainedModel, epsilon: float, answers: Answers) -> None:
    """Make ``model`` smooth its labels by ``epsilon`` in training; 0 changes nothing.

    Args:
        model: its outputs have ``loss`` and ``logits``, its input ``labels``.
        epsilon: in [0, 1).
        answers: what it puts out; a causal model's logits are those of the next token.
    """
    if epsilon:
        shifted = answers.kind == TEXT and not model.config.is_encoder_decoder
        model.register_forward_hook(SmoothedLoss(epsilon, shifted), with_kwargs=True)
