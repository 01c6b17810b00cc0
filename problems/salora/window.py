"""Open hard-concrete gates for a part of the training, then fix those that a share has room for.

A :class:`GateWindow` knows in which phase the gates are at each step and what they are fixed at.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bilevel.cutting.budget import part_of
from bilevel.errors import UserError
from bilevel.lowrank import RULES, Gates
from bilevel.lowrank.regularizers import ExpectedDensity

__all__ = ["NEAR", "GateWindow", "RecordedGates"]

log = logging.getLogger(__name__)

NEAR = 0.02  # how far from its target the density may be at the window's end without a word


@dataclass
class GateWindow:
    """When gates learn, what they cost, and what they become.

    Before step ``first`` (counted from 0) they are exactly 1, from there to before ``last`` they
    are drawn and learned, from ``last`` on they are constants.

    Args:
        gates: hard-concrete gates.
        costs: layer -> parameters of one component.
        first, last: steps of the window.
        target: b, the share of the adapter's parameters that is meant to stay.
        prune: what stays: ``budget``, the largest gates that fit into the share b, or
            ``threshold``, those with log theta > log(-gamma / zeta), however many.
        held: whether a multiplier is meant to bring the density to the target.

    Raises:
        UserError: the share b has room for no component.
    """

    gates: Gates
    costs: Mapping[str, int]
    first: int
    last: int
    target: float
    prune: str = "budget"
    held: bool = True

    def __post_init__(self) -> None:
        self.total = self.gates.k * sum(self.costs.values())
        self.budget = part_of(self.total, self.target)
        if self.prune == "budget" and self.budget < min(self.costs.values()):
            raise UserError(
                f"method.density={self.target} of {self.total} adapter parameters has no room for "
                f"one component of {min(self.costs.values())}: give a larger density or rank"
            )
        self._density = ExpectedDensity(self.gates, self.costs)

    def left(self, step: int) -> float:
        """Share of the window that lies ahead of ``step``: 1 before it, 0 after it."""
        return min(1.0, max(0.0, (self.last - step) / (self.last - self.first)))

    def enter(self, step: int) -> None:
        """Put the gates into their phase at ``step``."""
        if step < self.first:
            self.gates.open()
        elif step < self.last:
            self.gates.learn()
        elif self.gates.phase != "fixed":
            self.close()

    def close(self) -> None:
        """Fix the gates: those kept at their expected value, the others at 0.

        A density that is still far from its target is told: the budget then cuts what the
        constraint did not.
        """
        if self.gates.phase == "fixed":
            return
        reached = float(self.density().detach())
        if self.held and not abs(reached - self.target) <= NEAR:
            log.warning(
                "the density is %.3f where the gates' window ends, not near method.density=%g: "
                "leave method.gate_lr and method.multiplier.lr at null, which suit the window's "
                "%d steps, or widen it (method.start, method.end)",
                *(reached, self.target, self.last - self.first),
            )
        keep = self._chosen()
        mask = torch.stack([keep[name] for name in self.gates.names])
        self.gates.fix(self.gates.expected() * mask.to(self.gates.logits.device))

    def _chosen(self) -> dict[str, Tensor]:
        if self.prune == "threshold":
            passing = self.gates.logits.detach() > self.gates.keep_logit()
            return dict(zip(self.gates.names, passing.cpu(), strict=True))
        # Of the expected values: unlike the noise-free ones they are nowhere flat.
        values = dict(zip(self.gates.names, self.gates.expected(), strict=True))
        return RULES["budget"].keep(values, costs=self.costs, budget=self.budget)

    def kept(self) -> dict[str, Tensor]:
        """Layer -> boolean mask (k,) of the components that pass anything, as the gates are now."""
        return RULES["positive"].keep(self.gates)

    @property
    def learning(self) -> bool:
        """Whether the gates are drawn and learned at present."""
        return self.gates.phase == "learning"

    def density(self) -> Tensor:
        """C(theta), the expected share of parameters in use, differentiable in log theta."""
        return self._density()

    def state(self) -> dict[str, Any]:
        """Phase and constants, for a checkpoint."""
        return {"phase": self.gates.phase, "fixed": self.gates.fixed}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state` returned."""
        if state["fixed"] is not None:
            self.gates.fix(state["fixed"])
        self.gates.phase = state["phase"]


class RecordedGates:
    """What is recorded of gates over the steps: what it is chosen by.

    Inside the window that is their mean E[g]: without noise, half of them are flat at 0 or 1.

    Args:
        gates: hard-concrete gates.
    """

    def __init__(self, gates: Gates) -> None:
        self.names = gates.names
        self.gates = gates

    def values(self) -> Tensor:
        """The values now, (n, k)."""
        learning = self.gates.phase == "learning"
        return self.gates.expected() if learning else self.gates.values()
