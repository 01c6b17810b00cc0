r"""Train under a weight for each example.

    L(V; B) = sum_i v_i t_i / sum_i n_i,       v_i = w_i / mean of w        over the examples i of B

t_i is the sum of example i's losses, n_i of how many it is the sum: 1 for a class, the words of a
sentence, the tokens of a target. The mean is over D_train, so that weights falling together lower
nothing, and equal ones give the model's own loss. A batch B is not divided by its own weights: one
that by chance holds no example worth learning from would take a whole step on the others.

Where weights are learned one an example, that mean would let each step touch all of them. There

    L(V; B) = sum_i w_i t_i / sum_i w_i n_i                          (self-normalised)

over all of an optimiser step's examples. Of several micro-batches or processes, each has a part P
of B, and the loss of B is the sum over them of

    f_P L(V; P),        f_P = sum over P of w_i n_i / sum over B of w_i n_i

which is a function of the weights too. So each batch tells what the others' examples are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from bilevel import precision
from bilevel.data import INDEX
from bilevel.distributed import gathered
from bilevel.nests import to_device
from bilevel.precision import in_float64
from problems.common.fine_tuning import FineTuning

__all__ = ["ExampleLosses", "SelfNormalised", "Weighted", "WeightedByExample", "weighted_mean"]

LABELS = "labels"
FIRST = "first"  # which of a batch's windows is the first of each example
WHOLE = "whole"  # in a part of a step's examples: what f_P needs to know of all of them,
TERMS = "terms"  # n of each example
PLACE = "place"  # in which part it is: process, micro-batch
SHARE = "share"  # n(B) / n(P) of this part's examples, 0 of the others

# (outputs, batch) -> sums of losses (n,) and of how many each is the sum (n,).
ExampleLosses = Callable[[Any, Mapping[str, Tensor]], tuple[Tensor, Tensor]]


def weighted_mean(totals: Tensor, terms: Tensor, weights: Tensor) -> Tensor:
    """sum w t / sum w n; see the module's docstring.

    Args:
        totals: (n,), sums of losses.
        terms: (n,), of how many losses each is the sum.
        weights: (n,), not negative.
    """
    weights = in_float64(weights).to(totals)
    return (weights * totals).sum() / (weights * terms).sum()


class WeightedByExample(FineTuning):
    """The loss of numbered batches under weights of their examples, which are 1 on average.

    Args:
        losses: the task's loss of each example of a batch.
    """

    told: ClassVar[tuple[str, ...]] = (INDEX,)  # what weights_of looks at

    def __init__(self, *args: Any, losses: ExampleLosses, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.losses = losses

    def weights_of(self, batch: Mapping[str, Tensor]) -> Tensor:
        """v of each example of a batch, (n,), which tells its ``index`` at least."""
        raise NotImplementedError

    def totals(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """t and n of each example of a batch, (n,)."""
        extra = {*self.told, WHOLE}
        seen = {name: value for name, value in batch.items() if name not in extra}
        return self.losses(self.module(**seen), seen)

    def training_step(self, batch: Mapping[str, Any]) -> Tensor:
        """sum v t / sum n."""
        totals, terms = self.totals(batch)
        return (in_float64(self.weights_of(batch)).to(totals) * totals).sum() / terms.sum()


class Weighted(WeightedByExample):
    """The same under given weights.

    Args:
        losses: the task's loss of each example of a batch.
        weights: (n,) of the whole data set, not negative.
        trained: numbers of the examples that are trained on, to whose mean weight they count.
    """

    def __init__(self, *args: Any, weights: Tensor, trained: Sequence[int], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.weights = weights / weights[list(trained)].mean()

    def weights_of(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Those of the examples' numbers."""
        index = batch[INDEX]
        if self.weights.device != index.device:
            self.weights = self.weights.to(index.device)  # once: a copy there is waited for
        return self.weights[index]


class SelfNormalised(WeightedByExample):
    """The loss of numbered batches, relative to their examples' weights."""

    def of_step(self, batches: list[Any], loaded: list[Any]) -> list[Any]:
        """A step's micro-batches; beside each, of several or of several processes, all of them."""
        world = self.world
        if world.world_size == 1 and len(batches) == 1:
            return batches
        parts = [self._told(batch) for batch in loaded]  # nobody waits for the device
        own = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        sizes = torch.tensor([len(part[INDEX]) for part in parts])
        own[PLACE] = torch.arange(len(parts)).repeat_interleave(sizes)
        every = gathered(own, world) if world.world_size > 1 else [own]
        whole = {name: torch.cat([part[name] for part in every]) for name in own}
        ranks = torch.arange(len(every)).repeat_interleave(
            torch.tensor([len(part[INDEX]) for part in every])
        )
        device = torch.device(self.device)
        exact = device if precision.has_float64(device) else torch.device("cpu")
        places, n = whole.pop(PLACE), whole.pop(TERMS)
        told, n_there = to_device(whole, device), n.to(exact)
        found = []
        for place, batch in enumerate(batches):
            mine = (ranks == world.rank) & (places == place)
            # The engine counts this part's loss as n(P) / n(B) of all; f_P takes the place of that.
            share = mine * (n.sum() / (mine * n).sum().clamp(min=1))
            found.append({**batch, WHOLE: {**told, TERMS: n_there, SHARE: share.to(exact)}})
        return found

    def _told(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        n = len(batch[INDEX])
        # As the weights of whole batches count them (bilevel.micro_batches); a factor that all
        # examples have in common, as the number of a set's labels, falls out of f_P.
        bounds: list[int] = list(range(n + 1))
        if FIRST in batch:  # examples of several windows, each with labels of its own
            bounds = [*batch[FIRST].tolist(), len(batch[LABELS])]
        terms = [self.loss_terms({LABELS: batch[LABELS][a:b]}) for a, b in pairwise(bounds)]
        own = {name: batch[name].cpu() for name in self.told if name in batch}
        return {**own, TERMS: torch.tensor(terms, dtype=torch.float64)}

    def training_step(self, batch: Mapping[str, Any]) -> Tensor:
        """sum w t / sum w n, times what this part's share of the step makes of it."""
        totals, terms = self.totals(batch)
        loss = weighted_mean(totals, terms, self.weights_of(batch))
        if WHOLE not in batch:
            return loss
        whole = batch[WHOLE]
        weighted = in_float64(self.weights_of(whole)) * whole[TERMS]
        return loss * ((weighted * whole[SHARE]).sum() / weighted.sum()).to(loss)
