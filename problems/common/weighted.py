r"""Train under a weight for each example.

    L(V; B) = sum_i w_i t_i / sum_i w_i n_i        over the examples i of a batch B

t_i is the sum of example i's losses, n_i of how many it is the sum: 1 for a class, the words of a
sentence, the tokens of a target. With equal weights that is the model's own loss. Dividing by the
batch's weights keeps the size of a step, so that all weights falling together lowers nothing.

Of several processes, each has a part P of B, and the loss of B is the sum over them of

    f_P L(V; P),        f_P = sum over P of w_i n_i / sum over B of w_i n_i

which is a function of the weights too. So each batch tells what the others' examples are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from bilevel.data import INDEX
from bilevel.distributed import gathered
from bilevel.nests import to_device
from bilevel.precision import in_float64
from problems.common.fine_tuning import FineTuning

__all__ = ["ExampleLosses", "Weighted", "WeightedByExample", "weighted_mean"]

LABELS = "labels"
FIRST = "first"  # which of a batch's windows is the first of each example
WHOLE = "whole"  # in a batch of one of several processes: what f_P needs to know of all of them,
TERMS = "terms"  # n of each example
MINE = "mine"  # and whether it is one of this process's

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


class WeightedByExample(FineTuning):
    """The loss of numbered batches under weights of their examples, of all processes together.

    Args:
        losses: the task's loss of each example of a batch.
    """

    told: ClassVar[tuple[str, ...]] = (INDEX,)  # what weights_of looks at

    def __init__(self, *args: Any, losses: ExampleLosses, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.losses = losses

    def weights_of(self, batch: Mapping[str, Tensor]) -> Tensor:
        """w of each example of a batch, (n,), which tells its ``index`` at least."""
        raise NotImplementedError

    def get_batch(self) -> Any:
        """The next batch of this process; beside it, of several, the numbers of all of them."""
        batch = super().get_batch()
        if self.world.world_size == 1:
            return batch
        n = len(batch[INDEX])
        # As the weights of whole batches count them (bilevel.micro_batches); a factor that all
        # examples have in common, as the number of a set's labels, falls out of f_P.
        bounds: list[int] = list(range(n + 1))
        if FIRST in batch:  # examples of several windows, each with labels of its own
            bounds = [*batch[FIRST].tolist(), len(batch[LABELS])]
        terms = [self.loss_terms({LABELS: batch[LABELS][a:b]}) for a, b in pairwise(bounds)]
        own = {name: batch[name].cpu() for name in self.told if name in batch}
        own[TERMS] = torch.tensor(terms, dtype=torch.float64)
        every = gathered(own, self.world)
        whole = {name: torch.cat([part[name] for part in every]) for name in own}
        whole[MINE] = torch.cat(
            [torch.full((len(part[INDEX]),), r == self.world.rank) for r, part in enumerate(every)]
        )
        return {**batch, WHOLE: to_device(whole, torch.device(self.device))}

    def training_step(self, batch: Mapping[str, Any]) -> Tensor:
        """sum w t / sum w n."""
        extra = {*self.told, WHOLE}
        seen = {name: value for name, value in batch.items() if name not in extra}
        totals, terms = self.losses(self.module(**seen), seen)
        loss = weighted_mean(totals, terms, self.weights_of(batch))
        if WHOLE not in batch:
            return loss
        whole = batch[WHOLE]
        n, mine = whole[TERMS], whole[MINE]
        weighted = self.weights_of(whole).to(n) * n
        share = weighted[mine].sum() / weighted.sum()
        # The engine counts this process's loss as n(P) / n(B) of all; f_P takes the place of that.
        return loss * (share * n.sum() / n[mine].sum()).to(loss)


class Weighted(WeightedByExample):
    """The loss of numbered batches under their examples' weights.

    Args:
        losses: the task's loss of each example of a batch.
        weights: given ones, (n,) of the whole data set; None takes those of the module of the level
            named ``upper``, its ``weights()``.
    """

    def __init__(self, *args: Any, weights: Tensor | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.weights = weights

    def weights_of(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Those of the examples' numbers."""
        index = batch[INDEX]
        if self.weights is not None and self.weights.device != index.device:
            self.weights = self.weights.to(index.device)  # once: a copy there is waited for
        weights = self.upper.module.weights() if self.weights is None else self.weights
        return weights[index]
