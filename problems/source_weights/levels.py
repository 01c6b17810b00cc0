r"""Train under a weight for each source, and train the weights on trusted data.

    w(theta) = S softmax(theta)                         S sources; all are 1 at theta = 0

    lower   min over V of  sum_i w_s(i) l_i(V) / sum_i w_s(i)       over D_train
    upper   L(V*(theta); D_val)

A batch B of n examples, t_i the sum of example i's losses and n_i of how many it is the sum
(:mod:`problems.common.weighted`), has the loss

    sum_i v_i t_i / sum_i n_i,             v_i = w_s(i) / mean over D_train of w     (sampling=loss)
    sum_i r_i t_i / sum_i r_i n_i,         r_i = w_s(i)(theta) / w_s(i)(theta0)      (sampling=draw)

where batches are drawn by w(theta0), theta0 theta at the draw: r_i is 1 then, and its derivative is
what theta would change in the draw (importance weights). In expectation over batches both descend
the weighted mean over D_train.

A factor that all r have in common falls out. So r is taken by the shares of the sources in B
alone, which changes no derivative, and makes that by theta of a source without an example in B
exactly 0, and all of them where B is of one source. By the shares of all sources these are sums
that cancel but for their rounding, of which Adam, dividing a gradient by its own size, makes steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bilevel.data import INDEX, ResumableLoader, drawn
from problems.common.weighted import SelfNormalised, WeightedByExample

__all__ = ["DrawnBatches", "DrawnSourceWeighted", "SourceLogits", "SourceWeighted"]

DRAWN_AT = "drawn_at"  # w of each example's source when it was drawn, in a batch


class SourceLogits(nn.Module):
    """theta, and the source of every training example.

    Args:
        names: of the S sources.
        sources: the name of each example's, N of them.
        trained: the numbers of those in D_train; None for all.
    """

    source: Tensor
    examples: Tensor

    def __init__(
        self, names: Sequence[str], sources: Sequence[str], trained: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        numbers = {name: number for number, name in enumerate(names)}
        self.names = tuple(names)
        self.theta = nn.Parameter(torch.zeros(len(names)))
        self.register_buffer("source", torch.tensor([numbers[name] for name in sources]))
        own = self.source if trained is None else self.source[list(trained)]
        self.register_buffer("examples", torch.bincount(own, minlength=len(names)))  # of D_train

    def shares(self) -> Tensor:
        """softmax(theta), (S,): the weights as they are reported."""
        return self.theta.softmax(0)

    def weights(self, index: Tensor) -> Tensor:
        """v of the source of each example of an ``index``, (n,) of numbers of examples."""
        parts = self.examples.to(self.theta) / self.examples.sum()
        mean = (self.theta + parts.log()).logsumexp(0)
        return (self.theta - mean).exp()[self.source[index]]

    def relative(self, index: Tensor) -> Tensor:
        """w of the same, but for a factor that they have in common: see the module's docstring."""
        own = self.source[index]
        absent = torch.ones_like(self.theta, dtype=torch.bool).index_fill(0, own, False)
        total = self.theta.masked_fill(absent, -torch.inf).logsumexp(0)
        return len(self.names) * (self.theta - total)[own].exp()


class SourceWeighted(WeightedByExample):
    """Lower level: the loss of a numbered batch under the weights of its examples' sources."""

    def weights_of(self, batch: Mapping[str, Tensor]) -> Tensor:
        """v of each example."""
        weights: Tensor = self.upper.module.weights(batch[INDEX])
        return weights


class DrawnSourceWeighted(SelfNormalised):
    """Lower level: the loss of a numbered batch that was drawn by the weights of the sources."""

    told = (INDEX, DRAWN_AT)

    def weights_of(self, batch: Mapping[str, Tensor]) -> Tensor:
        """r of each example."""
        weights: Tensor = self.upper.module.relative(batch[INDEX])
        return weights / batch[DRAWN_AT].to(weights)


class DrawnBatches(ResumableLoader):
    """Batches that are drawn by the weights as they are when each is asked for.

    Batch number b of epoch e is a function of (seed, e, b) and of theta, so a resumed run, whose
    theta is that of the run before, draws the same. A batch tells the weights it was drawn by: what
    replays it, or takes the step again after a roll-back, needs no second draw. Batches are not
    grouped by length. Arguments as those of the class above, and:

    Args:
        logits: theta.
    """

    def __init__(self, *args: Any, logits: SourceLogits, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "numbered": True})
        self.logits = logits

    def __iter__(self) -> Iterator[Any]:
        for batch in super().__iter__():
            batch[DRAWN_AT] = self._weights(batch[INDEX])
            yield batch

    def _batch(self) -> np.ndarray:
        generator = np.random.default_rng((self.seed, self.epoch, self.position))
        order = generator.permutation(self.indices)
        # Source by source, so that each has its part of the batch, and not only on average.
        order = order[np.argsort(self.logits.source[order].cpu().numpy(), kind="stable")]
        weights = self._weights(torch.from_numpy(order)).double().numpy()
        return generator.permutation(drawn(order, weights, self.batch_size, generator))

    @torch.no_grad()
    def _weights(self, index: Tensor) -> Tensor:
        # By the shares of all sources: each process tells those of its part, and together they are
        # to have one factor in common.
        logits = self.logits
        weights = len(logits.names) * logits.shares()
        return weights[logits.source[index.to(weights.device)]].cpu()
