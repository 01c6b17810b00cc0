"""Record a level's steps while they are taken, as much of them as its estimator needs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from bilevel.hypergradient.optimizer_state import snapshot
from bilevel.replay.random_state import RandomState
from bilevel.replay.recording import Needs, RecordedSteps, StepRecord
from bilevel.step_settings import in_force, reads_settings

if TYPE_CHECKING:
    from bilevel.hypergradient.base import Hypergradient
    from bilevel.micro_batches import MicroBatch
    from bilevel.protocols import LowerLevel

__all__ = ["Companion", "StepRecorder"]


NOTHING = Needs(depth=0)


class Companion(Protocol):
    """What comes along with the steps: an estimator."""

    def at_step(self, lower: LowerLevel, step: StepRecord) -> None:
        """Called at each recorded step, before the optimiser takes it."""


class StepRecorder:
    """What one level remembers of its steps.

    Attributes:
        needs: what to record; nothing at first.
        companions: called at each recorded step.
        recorded: the steps since the last upper step.
        current: record of the optimiser step under way, if it is recorded.
    """

    def __init__(self, needs: Needs = NOTHING, companions: Sequence[Companion] = ()) -> None:
        self.needs = needs
        self.companions = companions
        self._accompanied = True
        self.recorded = RecordedSteps()
        self.current: StepRecord | None = None

    def serve(self, level: LowerLevel, estimator: Hypergradient) -> None:
        """Record what ``estimator`` needs, and let it come along."""
        self.needs, self.companions = estimator.needs(level), (estimator,)

    def forget(self) -> None:
        """Start anew, with the same needs."""
        self.recorded, self.current = RecordedSteps(), None

    def start(self, level: LowerLevel, accompanied: bool = True) -> None:
        """Begin T1 steps, with the upper variables as they are now.

        Args:
            level: whose steps they are.
            accompanied: whether an upper step follows; without, as in a warm-up, nobody is called.
        """
        self.current, self._accompanied = None, accompanied
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
                settings, read = level.step_settings(), reads_settings(level)
                with in_force(level.optimizer, settings, level.name, read):
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
        for companion in self.companions if self._accompanied else ():
            companion.at_step(level, record)
        return record
