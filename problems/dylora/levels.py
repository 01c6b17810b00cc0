r"""Train LoRA at ranks that are drawn: the gates that cut it, and the loss through them.

h = W_0 x + (alpha / b) B[:, :b] A[:b] x,        b ~ U{1, ..., r}
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bilevel.distributed import World, broadcast
from bilevel.lowrank import Gates, gated_layers
from problems import common

__all__ = ["Prefix", "RandomRank"]


class Prefix(Gates):
    """Gates that let the first b components through: r / b for them, 0 for the others.

    With LoRA's scale alpha / r that makes alpha / b. There is nothing to learn in them.

    Args:
        names: the layers. rank: r. final: b outside training.
    """

    def __init__(self, names: list[str], rank: int, final: int) -> None:
        super().__init__(names, rank, kind="real")
        self.logits.requires_grad_(False)
        self.drawn = self.final = final

    def draw(self, world: World | None = None) -> None:
        """Draw b for the coming step, one for all processes."""
        b = torch.randint(1, self.k + 1, (1,))
        if world is not None and world.world_size > 1:
            b = b.to(self.logits.device)  # where processes reach each other
            broadcast([b], world)
        self.drawn = int(b)

    def compute(self, sample: bool = False) -> Tensor:
        """The gates (n, r): ``sample`` (in training) for the rank drawn, else for the final one."""
        b = self.drawn if sample else self.final
        values = torch.zeros_like(self.logits)
        values[:, :b] = self.k / b
        return values


class RandomRank(common.FineTuning):
    """LoRA's loss at a rank that is drawn anew for every optimiser step.

    Args:
        prefix: the gates. frozen: let only the last component of a draw learn.
    """

    def __init__(self, *args: Any, prefix: Prefix, frozen: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.prefix = prefix
        self.frozen = frozen

    def initialize(self) -> None:
        """Set up, the gates on the model's device, which does not own them."""
        super().initialize()
        self.prefix.to(self.device)

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss, at a new rank with the first batch of an optimiser step."""
        if (self.count - 1) % self.gas == 0:
            self.prefix.draw(self.world)
        return super().training_step(batch)

    def grad_callback(self) -> None:
        """Runs after every backward pass."""
        if not self.frozen:
            return
        before = self.prefix.drawn - 1
        for layer in gated_layers(self.module).values():
            for rows in (layer.A.grad, None if layer.B.grad is None else layer.B.grad.T):
                if rows is not None:
                    rows[:before] = 0
