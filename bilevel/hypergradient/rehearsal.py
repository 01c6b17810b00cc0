"""Take the steps of a check of estimators: all on the same plain ones, or one on its own.

A check must leave the engine as it was, and no estimator may learn of another: each has a memory of
its own here, and one that changes the lower steps has weights, optimisers and data of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bilevel.hypergradient.base import Hypergradient
from bilevel.nests import clone_nested
from bilevel.problem import BilevelProblem
from bilevel.replay.random_state import RandomState
from bilevel.replay.recorder import StepRecorder

if TYPE_CHECKING:
    from bilevel.protocols import LowerLevel, UpperLevel
    from bilevel.replay.recording import StepRecord

__all__ = ["Apart", "Moment", "Run", "lower_steps"]


@dataclass
class Moment:
    """Where some problems and the random numbers stand."""

    states: dict[str, Any]
    random: RandomState

    @classmethod
    def of(cls, problems: Sequence[BilevelProblem]) -> Moment:
        """Copy it."""
        states = clone_nested({p.name: p.state_dict() for p in problems})
        return cls(states, RandomState.capture())

    def restore(self, problems: Sequence[BilevelProblem]) -> None:
        """Put it back; as often as needed."""
        for problem in problems:
            problem.load_state_dict(self.states[problem.name])
        self.random.restore()


@dataclass
class Run:
    """One estimator, with what it remembers from batch to batch, and its last answer."""

    estimator: Hypergradient
    memory: dict[str, Any]
    term: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0
    at_steps: float = 0.0

    def at_step(self, lower: LowerLevel, step: StepRecord) -> None:
        """Let the estimator come along with a step, against the clock."""
        with self._remembering(lower):
            start = _clock(lower)
            self.estimator.at_step(lower, step)
            self.at_steps += _clock(lower) - start

    def estimate(self, vector: Sequence[Tensor], lower: LowerLevel, upper: UpperLevel) -> None:
        """Its term, and the seconds that it took."""
        with self._remembering(lower):
            start = _clock(lower)
            self.term = self.estimator.implicit_term(vector, lower, upper)
            self.seconds, self.at_steps = _clock(lower) - start + self.at_steps, 0.0

    @contextmanager
    def _remembering(self, lower: LowerLevel) -> Iterator[None]:
        others, lower.estimator_state = lower.estimator_state, self.memory
        recorded = lower.recorded
        window, recorded.carried = recorded.carried, recorded.carried.setdefault(id(self), {})
        try:
            yield
        finally:
            lower.estimator_state, recorded.carried = others, window


@dataclass
class Apart:
    """An estimator that changes the steps, in a run of its own."""

    run: Run
    moment: Moment

    def go_on(
        self, problems: Sequence[BilevelProblem], lower: BilevelProblem, upper: BilevelProblem
    ) -> None:
        """Take T1 steps and the data of an upper one from where this run stands."""
        self.moment.restore(problems)
        lower.recorder = StepRecorder(self.run.estimator.needs(lower), [self.run])
        vector, direct = lower_steps(lower, upper)
        E = upper.trainable_parameters()
        kept = [p.grad for p in E]
        for p, g in zip(E, direct, strict=True):  # as in an upper step
            p.grad = upper.scaled(g)
        self.run.estimate(vector, lower, upper)
        for p, grad in zip(E, kept, strict=True):
            p.grad = grad
        self.moment = Moment.of(problems)


def lower_steps(lower: BilevelProblem, upper: BilevelProblem) -> tuple[list[Tensor], list[Tensor]]:
    """Take T1 lower steps and the data of an upper one; return v = dL2/dV and the direct dL2/dE."""
    lower.take_lower_steps()
    V, E = lower.trainable_parameters(), upper.trainable_parameters()
    grads = upper.new_gradient([*V, *E])
    return grads[: len(V)], grads[len(V) :]


def _clock(level: LowerLevel) -> float:
    if torch.device(level.device).type == "cuda":
        torch.cuda.synchronize(level.device)
    elif torch.device(level.device).type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()
