"""Train factors whose basis is turned between steps, and the gates that select among them.

lower   over V       L(V, g; D_train)
upper   over theta   L(V*(theta), g; D_val) + lambda (C(theta) - b)^2
"""

from __future__ import annotations

from typing import Any

from problems import common
from problems.autolora_singular.rounds import Rounds

__all__ = ["TurnedFactors"]


class TurnedFactors(common.FineTuning):
    """Lower level: L(V, g; D_train), in rounds between which the basis is turned.

    A turn comes before the T1 steps of a global step and never among them, so that what an upper
    step is differentiated through are optimiser steps alone.

    Args:
        rounds: of the gates. The problem of the gates is named ``upper``.
    """

    def __init__(self, *args: Any, rounds: Rounds, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rounds = rounds
        # Of the training: a check of horizons takes windows of other lengths for a while.
        self.unroll_steps = self.config.unroll_steps

    def on_inner_loop_start(self) -> None:
        """Before the T1 steps: enter the phase of the global step that they are."""
        if self._count % (self.gas * self.unroll_steps) == 0:
            self.rounds.enter(self._coming(), self.optimizer, self.upper.optimizer)

    def take_lower_steps(self) -> None:
        """Also where nobody steps after them."""
        self.on_inner_loop_start()
        super().take_lower_steps()

    def _coming(self) -> int:
        """Global steps before the one whose steps come."""
        return self._count // self.gas // self.unroll_steps

    @property
    def differentiated(self) -> bool:
        """Not in the warm-up."""
        return self._coming() >= self.rounds.first

    @property
    def records_steps(self) -> bool:
        """Not in the warm-up."""
        return self.rounds.learning

    def extra_state(self) -> dict[str, Any]:
        """The gates' phase."""
        return {"phase": self.rounds.gates.phase}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self.rounds.gates.phase = state["phase"]
