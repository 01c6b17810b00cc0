"""Remember what levels had learned when a score was best, and put it back."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from bilevel.problem import BilevelProblem

__all__ = ["BestWeights"]

log = logging.getLogger(__name__)


class BestWeights:
    """A copy, in the host's memory, of all that the levels had learned at the best score so far.

    That is each level's trainable parameters, running statistics and ``extra_state``: the whole of
    what a method makes its outcome of, and nothing of optimisers and data. So it serves to end a
    training, not to go on with it.

    Args:
        problems: the levels.
        mode: whether a smaller (``min``) or a larger (``max``) score is better.

    Attributes:
        step: at which the copy was made; None before the first.
        score: then.
    """

    def __init__(self, problems: Sequence[BilevelProblem], mode: Literal["min", "max"]) -> None:
        self.problems = list(problems)
        self.mode = mode
        self.step: int | None = None
        self.score = math.nan
        self._levels: dict[str, dict[str, Any]] = {}

    def offer(self, step: int, score: float) -> bool:
        """Copy the levels as they are at ``step`` if ``score`` is the best yet.

        Of equal scores the first is kept; one that is not a number is never the best.
        """
        gain = self.score - score if self.mode == "min" else score - self.score
        if math.isnan(score) or (self.step is not None and not gain > 0):
            return False
        self.step, self.score = step, score
        self._levels = {problem.name: _learned(problem) for problem in self.problems}
        return True

    def restore(self) -> None:
        """Give the levels what was copied; without a copy they stay as they are."""
        for problem in self.problems if self.step is not None else ():
            _put_back(problem, self._levels[problem.name])

    def state_dict(self) -> dict[str, Any]:
        """The copy, for a checkpoint."""
        return {"step": self.step, "score": self.score, "levels": self._levels}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self.step, self.score, self._levels = state["step"], state["score"], state["levels"]


def _learned(problem: BilevelProblem) -> dict[str, Any]:
    running = {id(buffer) for buffer in problem.slots.running_statistics()}
    return _copied(
        {
            "parameters": [p.detach() for p in problem.trainable_parameters()],
            "buffers": {n: b for n, b in problem.module.named_buffers() if id(b) in running},
            "extra": problem.extra_state(),
            "count": problem.count,
        }
    )


@torch.no_grad()
def _put_back(problem: BilevelProblem, state: dict[str, Any]) -> None:
    for p, value in zip(problem.trainable_parameters(), state["parameters"], strict=True):
        p.copy_(value)
    buffers = dict(problem.module.named_buffers())
    for name, value in state["buffers"].items():
        buffers[name].copy_(value)
    problem._count = state["count"]  # a method may make its outcome of it
    problem.load_extra_state(_copied(state["extra"]))


def _copied(value: Any) -> Any:
    """A nest with copies of its tensors, on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)
    return value
