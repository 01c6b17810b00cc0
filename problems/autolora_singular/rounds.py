r"""Turn factors into their singular basis now and then, with gates that start anew at 1.

s B diag(g) A = U diag(sigma) V^T,    B <- U (sigma/s)^1/2,   A <- (sigma/s)^1/2 V^T,   g <- 1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bilevel.lowrank import component_costs, gated_layers
from bilevel.lowrank.gate_kinds import HardConcrete
from bilevel.lowrank.regularizers import ExpectedDensity
from bilevel.lowrank.singular import to_singular_basis

if TYPE_CHECKING:
    from peft import PeftModel

    from bilevel.lowrank import Gates

__all__ = ["Rounds"]


@dataclass
class Rounds:
    """When the gates learn, and when the basis is turned.

    Before the global step ``first`` (counted from 0) the gates are exactly 1. At ``first``, and
    again every ``every`` global steps, the update of every layer is written in its singular basis,
    gates included, and the gates start anew: the function is what it was. What Adam knows of
    factors and gates is forgotten, as it is of components that are no more: first moments could be
    turned, second ones could not. What it knows of the head stays.

    Args:
        model: with ``gates`` attached.
        gates: of its components.
        first: global step in which they begin to learn.
        every: global steps in a round.
    """

    model: PeftModel
    gates: Gates
    first: int
    every: int

    def __post_init__(self) -> None:
        self.costs = component_costs(self.model)
        drawn = isinstance(self.gates.kind, HardConcrete)
        self._density = ExpectedDensity(self.gates, self.costs) if drawn else None

    def enter(
        self, step: int, factors: torch.optim.Optimizer, gates: torch.optim.Optimizer
    ) -> None:
        """Put gates and basis into their state at the start of a global step.

        Args:
            step: which.
            factors: the optimiser of the factors (and the head).
            gates: the optimiser of the gates' logits.
        """
        if step < self.first:
            self.gates.open()
            return
        if (step - self.first) % self.every == 0:
            self.turn()
            for layer in gated_layers(self.model).values():
                factors.state.pop(layer.A, None)
                factors.state.pop(layer.B, None)
            gates.state.pop(self.gates.logits, None)
        self.gates.learn()

    def turn(self) -> None:
        """Take the gates' values into the factors' singular basis, and start the gates at 1."""
        to_singular_basis(self.model)
        self.gates.restart()

    @property
    def learning(self) -> bool:
        """Whether the gates learn at present."""
        return self.gates.phase == "learning"

    def density(self) -> Tensor:
        """C(theta), the expected share of parameters in use, of hard-concrete gates."""
        assert self._density is not None
        return self._density()
