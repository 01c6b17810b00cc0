"""Go back to the start of a level's T1 steps, to take the last of them again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from bilevel.errors import UserError
from bilevel.nests import clone_nested

if TYPE_CHECKING:
    from bilevel.hypergradient.base import Hypergradient
    from bilevel.micro_batches import MicroBatch
    from bilevel.protocols import LowerLevel

__all__ = ["RollBack"]


class RollBack:
    """What one level needs to go back: a copy of what it owns (no backbone), and its last batch.

    Attributes:
        active: whether the T1 steps under way will be rolled back.
        batches: the micro-batches of the latest optimiser step.
        saved: parameters, running statistics and the optimiser's state; None when not needed.
    """

    def __init__(self) -> None:
        self.active = False
        self.batches: list[MicroBatch] = []
        self.saved: dict[str, Any] | None = None

    def check(self, asked: bool, estimator: Hypergradient) -> None:
        """Refuse estimators that could not follow.

        Raises:
            UserError: a roll-back is ``asked`` for, and ``estimator`` changes what a step is.
        """
        if asked and estimator.changes_steps:
            raise UserError(
                f"hypergradient {estimator.name} takes part in the lower steps, and roll_back=true "
                "takes the last of them again without it: leave roll_back off, or use another "
                "hypergradient"
            )

    def note(self, micro: MicroBatch) -> None:
        """Keep a micro-batch, and of those before it only the ones of its optimiser step."""
        if self.active:
            ended = bool(self.batches) and self.batches[-1].last
            self.batches = [micro] if ended else [*self.batches, micro]

    def save(self, level: LowerLevel) -> None:
        """Copy what :meth:`restore` puts back."""
        self.saved = {
            "parameters": [p.detach().clone() for p in level.trainable_parameters()],
            "running": [buffer.clone() for buffer in level.slots.running_statistics()],
            "optimizer": None
            if level.optimizer is None
            else clone_nested(level.optimizer.state_dict()),
        }

    def restore(self, level: LowerLevel) -> None:
        """Put back what :meth:`save` copied, and let the copy go."""
        assert self.saved is not None
        running = level.slots.running_statistics()
        with torch.no_grad():
            for p, value in zip(
                level.trainable_parameters(), self.saved["parameters"], strict=True
            ):
                p.copy_(value)
            for buffer, value in zip(running, self.saved["running"], strict=True):
                buffer.copy_(value)
        if level.optimizer is not None:
            level.optimizer.load_state_dict(self.saved["optimizer"])
        self.saved = None
