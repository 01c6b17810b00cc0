r"""Find the least T1 whose hypergradient points where that of twice as many steps does.

What a run's upper level follows depends on T1: dV/dE holds the last T1 lower steps, and what E did
before them counts as a constant. At one and the same weights, with 2 T1 steps behind them, let g(K)
be the whole gradient (direct partial and implicit term) through the last K steps. T1 is doubled
from 1 on until

    cos(g(T1), g(2 T1))  >=  a stated value

in the mean over some batches. That is a test of the direction only, at the weights where it is
taken: a gradient that has not moved from T1 to 2 T1 may still move later.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bilevel.errors import UserError
from bilevel.hypergradient.accuracy import check, two_levels
from bilevel.hypergradient.unrolled import Unrolled
from bilevel.problem import BilevelProblem

if TYPE_CHECKING:
    from bilevel.protocols import EngineView

__all__ = ["Horizon", "find_horizon"]


@dataclass(frozen=True)
class Horizon:
    """What was found.

    Attributes:
        unroll_steps: the least T1 that is good enough; None if none is.
        cosines: T1 -> mean cosine between the gradients of T1 and 2 T1 steps.
        wanted: the cosine that was asked for.
    """

    unroll_steps: int | None
    cosines: dict[int, float]
    wanted: float

    def __str__(self) -> str:
        seen = ", ".join(f"{steps}: {cosine:.3f}" for steps, cosine in self.cosines.items())
        tried = f"cosine of the hypergradients at T1 and 2 T1, by T1: {seen}"
        if self.unroll_steps is None:
            return f"no T1 up to {max(self.cosines)} reaches {self.wanted:g}; {tried}"
        return (
            f"take method.unroll_steps={self.unroll_steps}, the least at {self.wanted:g}; {tried}"
        )


def find_horizon(
    engine: EngineView, cosine: float = 0.9, most: int = 32, batches: int = 2
) -> Horizon:
    """Double T1 until the hypergradient's direction is stable; the engine is left as it was.

    Args:
        engine: a two-level engine, trained to where the question is asked.
        cosine: between g(T1) and g(2 T1), that is good enough; below 1.
        most: the largest T1 to try.
        batches: of the upper level to average over.

    Raises:
        UserError: ``cosine`` is not between -1 and 1, ``most`` is below 1, or the engine has no two
            levels, or a lower one whose steps cannot be differentiated.
    """
    if not -1 < cosine < 1:
        raise UserError(f"horizon: the cosine asked for must be between -1 and 1, got {cosine}")
    if most < 1:
        raise UserError(f"horizon: the largest T1 to try must be 1 or more, got {most}")
    lower, _ = two_levels([p for p in engine.problems if isinstance(p, BilevelProblem)])
    found: dict[int, float] = {}
    steps = 1
    while steps <= most:
        with _unrolling(lower, 2 * steps):
            results = check(engine, [Unrolled(depth=steps, keep_graph=False)], batches)
        found[steps] = statistics.fmean(r.total_cosine for r in results)
        if not math.isnan(found[steps]) and found[steps] >= cosine:
            return Horizon(steps, found, cosine)
        steps *= 2
    return Horizon(None, found, cosine)


@contextmanager
def _unrolling(lower: BilevelProblem, steps: int) -> Iterator[None]:
    """Let the check take that many lower steps at a time."""
    kept, lower.config.unroll_steps = lower.config.unroll_steps, steps
    try:
        yield
    finally:
        lower.config.unroll_steps = kept
