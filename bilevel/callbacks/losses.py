"""Sum the levels' training losses on their device, to be read only when they are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from bilevel.distributed import averaged

if TYPE_CHECKING:
    from torch import Tensor

    from bilevel.protocols import EngineView, UpperLevel

__all__ = ["LossMeans", "level_names"]


def level_names(engine: EngineView) -> dict[str, str]:
    """Problem name -> "lower" or "upper" where that says it all, else the problem's own name."""
    leaves = [problem for problem in engine.problems if problem.leaf]
    if len(engine.problems) <= 2 and len(leaves) == 1:
        return {p.name: "lower" if p.leaf else "upper" for p in engine.problems}
    return {problem.name: problem.name for problem in engine.problems}


class LossMeans:
    """Mean loss per problem since the last :meth:`read`; adding never waits for the device.

    Micro-batches count by their weights in the loss of their optimiser step, which is what the
    level descends, and steps alike: the weights of a step add up to 1.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, float | Tensor] = {}

    def add(self, problem: UpperLevel, loss: Tensor) -> None:
        """Count one (micro-)batch's loss, a detached 0-d tensor."""
        name, micro = problem.name, problem.step_batches.current
        part = loss if micro is None else micro.weighted(loss)
        # A new tensor, not in place: a checkpoint may hold the old one.
        self._sums[name] = self._sums[name] + part if name in self._sums else part.clone()
        weight = 1.0 if micro is None else micro.weight
        self._weights[name] = self._weights.get(name, 0.0) + weight

    def read(self) -> dict[str, float]:
        """Problem name -> mean; waits for the device, and starts anew."""
        means = {name: float(s) / float(self._weights[name]) for name, s in self._sums.items()}
        self._sums, self._weights = {}, {}
        return means

    def share(self, engine: EngineView) -> None:
        """Take the means over processes, each of which has to come here; their losses differ."""
        if engine.world.world_size == 1:
            return
        own = [
            torch.as_tensor(part.get(problem.name, 0.0), dtype=torch.float64, device=engine.device)
            for problem in engine.problems
            for part in (self._sums, self._weights)
        ]
        means = averaged(own, engine.world)
        names = [problem.name for problem in engine.problems]
        found = zip(names, means[::2], means[1::2], strict=True)
        kept = [(name, total, weight) for name, total, weight in found if weight != 0]
        self._sums = {name: total for name, total, _ in kept}
        self._weights = {name: weight for name, _, weight in kept}

    def state_dict(self) -> dict[str, Any]:
        """The sums so far."""
        return {"sums": dict(self._sums), "counts": dict(self._weights)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str) -> None:
        """Go on from saved sums."""
        self._sums = {name: total.to(device) for name, total in state["sums"].items()}
        self._weights = dict(state["counts"])
