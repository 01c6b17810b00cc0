"""Record a level's steps while they are taken, as much of them as its estimator needs."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from bilevel.hypergradient.optimizer_state import snapshot
from bilevel.replay.random_state import RandomState
from bilevel.replay.recording import Needs, RecordedSteps, StepRecord
from bilevel.step_settings import in_force

if TYPE_CHECKING:
    from bilevel.micro_batches import MicroBatch
    from bilevel.protocols import LowerLevel

__all__ = ["StepRecorder"]


NOTHING = Needs(depth=0)


class StepRecorder:
    """What one level remembers of its steps.

    Attributes:
        needs: what to record; nothing at first.
        recorded: the steps since the last upper step.
        current: record of the optimiser step under way, if it is recorded.
    """

    def __init__(self, needs: Needs = NOTHING) -> None:
        self.needs = needs
        self.recorded = RecordedSteps()
        self.current: StepRecord | None = None

    def forget(self) -> None:
        """Start anew, with the same needs."""
        self.recorded, self.current = RecordedSteps(), None

    def start(self, level: LowerLevel) -> None:
        """Begin T1 steps, with the upper variables as they are now."""
        self.current = None
        self.recorded.open(
            self.needs.depth,
            {
                upper.name: [p.detach().clone() for p in upper.trainable_parameters()]
                for upper in level.ancestors
            },
        )

    def open(self, level: LowerLevel, micro: MicroBatch) -> StepRecord | None:
        """Remember what the coming micro-batch needs to be computed again."""
        if self.needs.depth == 0:
            return None
        record = self.current
        if record is None:
            weights = [p.detach().clone() for p in level.trainable_parameters()]
            record = StepRecord(weights, max_norm=level.gradient_clipping)
            if self.needs.optimizer:
                groups = level.optimizer.param_groups
                record.rates = [copy.deepcopy(group["lr"]) for group in groups]
                with in_force(level.optimizer, level.step_settings(), level.name):
                    record.snapshot = snapshot(level.optimizer, level.trainable_parameters())
            if self.needs.graph and level.gas == 1:
                record.graph = ([w.requires_grad_() for w in record.weights], [])
            self.recorded.steps.append(record)
            self.current = record
        record.batches.append((micro, RandomState.capture(level.device)))
        return record

    def close(self, level: LowerLevel) -> StepRecord | None:
        """Remember the gradient that the step is about to be taken with."""
        record, self.current = self.current, None
        if record is None:
            return None
        inverse = level.inverse_scale
        # A copy: clipping changes p.grad in place. None where the loss does not use a parameter.
        record.gradient = [
            None if p.grad is None else p.grad.detach() * (1.0 if inverse is None else inverse)
            for p in level.trainable_parameters()
        ]
        return record
