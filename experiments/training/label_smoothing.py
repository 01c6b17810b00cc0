r"""Label smoothing in training: the loss of a model that is also asked for a little of every class.

    L = (1 - eps) (-log p(y)) + eps mean_c (-log p(c))

A forward hook replaces the model's own loss while it is in training mode, whatever wraps it, so
that every level and estimator sees the same loss; in evaluation the loss stays plain.
"""

from __future__ import annotations

from typing import Any

from torch.nn import functional
from transformers import PreTrainedModel

from bilevel.errors import UserError
from experiments.answers import LABELS, NUMBER, TEXT, Answers

__all__ = ["check_smoothing", "smooth_labels"]


def check_smoothing(epsilon: float, answers: Answers) -> None:
    """Raise UserError for a number, or for sets of labels, which are not smoothed."""
    if epsilon and answers.kind in (NUMBER, LABELS):
        what = "numbers" if answers.kind == NUMBER else "several labels a text"
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
        model.register_forward_hook(_Smoothed(epsilon, shifted), with_kwargs=True)


class _Smoothed:
    """The hook; an object, so that copies of the model can be made and saved."""

    def __init__(self, epsilon: float, shifted: bool) -> None:
        self.epsilon = epsilon
        self.shifted = shifted

    def __call__(self, module: Any, args: Any, kwargs: dict[str, Any], outputs: Any) -> Any:
        labels = kwargs.get("labels")
        if not module.training or labels is None:
            return outputs
        logits = outputs.logits
        if self.shifted:
            logits, labels = logits[:, :-1], labels[:, 1:]
        outputs.loss = functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]).float(),
            labels.reshape(-1),
            label_smoothing=self.epsilon,
        )
        return outputs
