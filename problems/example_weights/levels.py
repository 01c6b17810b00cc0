r"""Keep a weight for each training example, and train the weights on trusted data.

lower   sum_i w_i l_i(V) / sum_i w_i  over a step's examples (:mod:`problems.common.weighted`)
upper   L(V*(w); D_val)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bilevel.data import INDEX
from bilevel.precision import in_float64
from problems import common
from problems.common.weighted import SelfNormalised

__all__ = ["ExampleLogits", "ExampleWeighted", "TrustedLoss"]


class ExampleLogits(nn.Module):
    """A weight in (0, 1) for each of some examples: the sigmoid of a number of its own.

    A sigmoid and no clamp to [0, 1]: what a clamp has brought to 0 has no gradient any more, and a
    right label that looked wrong early would never come back.

    Args:
        count: of the examples; all weights start at 1/2.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(count))

    def weights(self) -> Tensor:
        """All of them, (count,)."""
        return self.logits.sigmoid()


class ExampleWeighted(SelfNormalised):
    """Lower level: the loss of a numbered batch under the weights as they are."""

    def weights_of(self, batch: Mapping[str, Tensor]) -> Tensor:
        """w of each example."""
        weights: Tensor = self.upper.module.weights()
        return weights[batch[INDEX]]


class TrustedLoss(common.EvaluatedHeldOut):
    """Upper level: the loss on trusted examples, with steps whose size no estimator decides.

    A gradient g touches the weights of the latest lower batches alone. It is divided by

        sqrt(mean over the steps so far of s),    s = mean of g_i^2 over the touched i,

    so that ``lr`` is about what a touched logit moves by, whether the estimator's scale is that of
    Adam's steps (``unrolled``) or of a gradient (``finite_difference``, Betty's). One number for
    all weights: Adam's, one a weight, would make a vote of every visit, whatever it says; and a
    mean, no running one, so that late gradients, small once the trusted loss is, count little.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._squares = torch.zeros((), dtype=torch.float64)
        self._steps = torch.zeros((), dtype=torch.int64)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Divide, then step."""
        (logits,) = self.trainable_parameters()
        if logits.grad is not None:
            inverse = self.inverse_scale
            touched = in_float64(logits.grad)
            if inverse is not None:
                touched = touched * inverse
            count = (touched != 0).sum()
            square = touched.square().sum() / count.clamp(min=1)
            # Else nothing is learned, or fp16 skips the step. All of it stays on the device.
            counts = (square > 0) & torch.isfinite(square)
            squares, steps = self._squares.to(square.device), self._steps.to(square.device)
            self._squares = squares + square.masked_fill(~counts, 0.0)
            self._steps = steps + counts
            divisor = (self._squares / self._steps.clamp(min=1)).sqrt()
            logits.grad /= divisor.masked_fill(~counts, 1.0).to(logits.grad)
        super().optimizer_step(*args, **kwargs)

    def clip_grad(self) -> None:
        """Not at all: the gradient's size is set above, and a norm would make it depend on how
        many weights a step touches."""

    def extra_state(self) -> dict[str, Any]:
        """What the gradient is divided by."""
        return {"squares": self._squares, "steps": self._steps}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take it back."""
        # Numbers, in older checkpoints.
        self._squares = torch.as_tensor(state["squares"], dtype=torch.float64)
        self._steps = torch.as_tensor(state["steps"], dtype=torch.int64)
