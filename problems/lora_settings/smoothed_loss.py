r"""Replace a transformers model's loss in training by one with smoothed labels.

    L = (1 - eps) (-log p(y)) + eps mean_c (-log p(c))

A forward hook does it, whatever wraps the model, so that every level and estimator sees the same
loss; in evaluation the loss stays plain. eps may be a tensor with a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional

from bilevel.labels import NO_LABEL

__all__ = ["SmoothedLoss"]


class SmoothedLoss:
    """The hook, to be registered ``with_kwargs``; an object, so that models can be copied.

    Args:
        epsilon: a number in [0, 1), or a function that gives it as a scalar tensor.
        shifted: whether logits are those of the next token (causal models).
    """

    def __init__(self, epsilon: float | Callable[[], Tensor | float], shifted: bool) -> None:
        self.epsilon = epsilon
        self.shifted = shifted

    def __call__(self, module: Any, args: Any, kwargs: dict[str, Any], outputs: Any) -> Any:
        """Put the loss in its place."""
        labels = kwargs.get("labels")
        if not module.training or labels is None:
            return outputs
        logits = outputs.logits
        if self.shifted:
            logits, labels = logits[:, :-1], labels[:, 1:]
        logits, labels = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
        if not callable(self.epsilon):
            outputs.loss = functional.cross_entropy(
                logits.float(), labels, label_smoothing=self.epsilon
            )
            return outputs
        logits = logits if logits.element_size() >= 4 else logits.float()  # not of half precision
        epsilon = self.epsilon()
        counted = labels != NO_LABEL
        log_p = logits.log_softmax(-1)
        uniform = -(log_p.mean(-1) * counted).sum() / counted.sum()
        plain = functional.nll_loss(log_p, labels, ignore_index=NO_LABEL)
        outputs.loss = (1 - epsilon) * plain + epsilon * uniform
        return outputs
