r"""Train under a weight for each example.

    L(V; B) = sum_i w_i t_i / sum_i w_i n_i        over the examples i of a batch B

t_i is the sum of example i's losses, n_i of how many it is the sum: 1 for a class, the words of a
sentence, the tokens of a target. With equal weights that is the model's own loss. Dividing by the
batch's weights keeps the size of a step, so that all weights falling together lowers nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from bilevel.data import INDEX
from bilevel.precision import in_float64
from problems.common.fine_tuning import FineTuning

__all__ = ["ExampleLosses", "Weighted", "weighted_mean"]

# (outputs, batch) -> sums of losses (n,) and of how many each is the sum (n,).
ExampleLosses = Callable[[Any, Mapping[str, Tensor]], tuple[Tensor, Tensor]]


def weighted_mean(totals: Tensor, terms: Tensor, weights: Tensor) -> Tensor:
    """sum w t / sum w n of a batch; see the module's docstring.

    Args:
        totals: (n,), sums of losses.
        terms: (n,), of how many losses each is the sum.
        weights: (n,), not negative.
    """
    weights = in_float64(weights).to(totals)
    return (weights * totals).sum() / (weights * terms).sum()


class Weighted(FineTuning):
    """The loss of numbered batches under their examples' weights.

    Args:
        losses: the task's loss of each example of a batch.
        weights: given ones, (n,) of the whole data set; None takes those of the module of the level
            named ``upper``, its ``weights()``.
    """

    def __init__(
        self, *args: Any, losses: ExampleLosses, weights: Tensor | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.losses = losses
        self.weights = weights

    def training_step(self, batch: Mapping[str, Tensor]) -> Tensor:
        """sum w t / sum w n."""
        index = batch[INDEX]
        seen = {name: value for name, value in batch.items() if name != INDEX}
        if self.weights is not None and self.weights.device != index.device:
            self.weights = self.weights.to(index.device)  # once: a copy there is waited for
        weights = self.upper.module.weights() if self.weights is None else self.weights
        totals, terms = self.losses(self.module(**seen), seen)
        return weighted_mean(totals, terms, weights[index])
