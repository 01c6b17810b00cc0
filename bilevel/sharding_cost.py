r"""Say what a shared-out base costs: bytes that a process holds, and bytes that it receives.

With N processes, a frozen weight of d rows and s bytes is held as ceil(d / N) rows by each, padded,
so that a group g of modules (:func:`bilevel.sharding.groups`) is part_g bytes here and, gathered,
N part_g. A forward and a backward pass gather each group once each.
At the worst moment a group is in use, the next one is there, and so is the buffer that it came in:

    held      sum over g of part_g  +  all that is not of the base
    at most   held  +  3 N max over g of part_g
    received  2 (N - 1) sum over g of part_g              a forward and backward pass
              (N - 1) sum over g of part_g                an evaluation's forward pass

Gradients, optimiser states and activations come to that as they do without sharding. Nothing is
sent of the base's gradients, which has none. The gradients of what is trained are averaged: a ring
sends and receives 2 (N - 1) / N of their bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bilevel.sharding import frozen_base, groups

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["ShardingCost", "sharding_cost"]


@dataclass(frozen=True)
class ShardingCost:
    """Of one process among several.

    Attributes:
        processes: N.
        whole: bytes of the base.
        part: bytes of it that each process keeps, padding included.
        others: bytes of all other parameters, which are whole everywhere.
        trained: bytes of those of them that require a gradient.
        largest: bytes of the largest group, gathered.
    """

    processes: int
    whole: int
    part: int
    others: int
    trained: int
    largest: int

    @property
    def held(self) -> int:
        """Bytes of parameters between two passes."""
        return self.part + self.others

    @property
    def most(self) -> int:
        """Bytes of parameters, gathered ones and buffers included, during a pass."""
        return self.held + 3 * self.largest

    @property
    def forward(self) -> int:
        """Bytes received in an evaluation's forward pass."""
        return self.part * (self.processes - 1)

    @property
    def forward_backward(self) -> int:
        """Bytes received in a forward and a backward pass."""
        return 2 * self.forward

    @property
    def averaging(self) -> int:
        """Bytes received when the gradient of what is trained is averaged."""
        return 2 * self.trained * (self.processes - 1) // self.processes


def sharding_cost(module: nn.Module, processes: int) -> ShardingCost:
    """Of a model with its adapters, on any device (meta too), shared out already or not.

    Args:
        module: what :func:`bilevel.sharding.shard_base` is given.
        processes: N.
    """
    base = {id(p): p for p in frozen_base(module).values()}
    parts = {key: _part(p, processes) for key, p in base.items()}

    def gathered(members: Iterable[nn.Module]) -> int:
        inside = {id(p) for member in members for p in member.parameters()} & parts.keys()
        return processes * sum(parts[key] for key in inside)

    every = [gathered(group) for group in groups(module)]
    others = [p for p in module.parameters() if id(p) not in base]
    return ShardingCost(
        processes=processes,
        whole=sum(p.numel() * p.element_size() for p in base.values()),
        part=sum(parts.values()),
        others=sum(p.nbytes for p in others),
        trained=sum(p.nbytes for p in others if p.requires_grad),
        largest=max(every),
    )


def _part(weight: Tensor, processes: int) -> int:
    rows = len(weight)
    own = -(-rows // processes)
    return own * (weight.numel() // max(rows, 1)) * weight.element_size()
