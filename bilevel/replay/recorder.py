"""Record a level's steps while they are taken, as much of them as its estimator needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bilevel.hypergradient.optimizer_state import snapshot
from bilevel.replay.random_state import RandomState
from bilevel.replay.recording import Needs, RecordedSteps, StepRecord

if TYPE_CHECKING:
    from torch import Tensor

    from bilevel.protocols import LowerLevel

__all__ = ["StepRecorder"]


NOTHING = Needs(depth=0)


class StepRecorder:
    """What one level remembers of its steps.

    Attributes:
        needs: what to record; nothing at first.
        recorded: the steps since the last upper step.
        current: record of the step whose micro-batch is on its way through ``backward``, if any.
    """

    def __init__(self, needs: Needs = NOTHING) -> None:
        self.needs = needs
        self.recorded = RecordedSteps()
        self.current: StepRecord | None = None

    def start(self, level: LowerLevel) -> None:
        """Begin T1 steps, with the upper variables as they are now."""
        self.recorded.open(
            self.needs.depth,
            {
                upper.name: [p.detach().clone() for p in upper.trainable_parameters()]
                for upper in level.ancestors
            },
        )

    def open(self, level: LowerLevel, batch: Any) -> StepRecord | None:
        """Remember what the coming micro-batch needs to be computed again."""
        if self.needs.depth == 0:
            return None
        first_micro = level.gas == 1 or level.count % level.gas == 1
        if not first_micro and self.recorded.steps:
            record = self.recorded.steps[-1]
        else:
            weights = [p.detach().clone() for p in level.trainable_parameters()]
            record = StepRecord(weights, max_norm=level.gradient_clipping)
            if self.needs.optimizer:
                record.snapshot = snapshot(level.optimizer, level.trainable_parameters())
            if self.needs.graph and level.gas == 1:
                record.graph = ([w.requires_grad_() for w in record.weights], [])
            self.recorded.steps.append(record)
        record.batches.append((batch, RandomState.capture(level.device)))
        return record

    def close(self, record: StepRecord, level: LowerLevel, inverse_scale: Tensor | float) -> None:
        """Remember the gradient that the step is about to be taken with."""
        # A copy: clipping changes p.grad in place. None where the loss does not use a parameter.
        record.gradient = [
            None if p.grad is None else p.grad.detach() * inverse_scale
            for p in level.trainable_parameters()
        ]
