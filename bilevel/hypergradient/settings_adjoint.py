"""Gather the adjoints of learning rates and decays over the steps, and take them to E.

With h_t(E) the factors of the learning rates eta_t and the weight decays of step t,

    dL2/dE  +=  sum_t (dh_t/dE)^T a_{h_t},        a_m = eta_t a_lr for a factor m.

E stays what it is while the T1 steps are taken, so the sum is taken first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bilevel.errors import UserError
from bilevel.hypergradient.base import Hypergradient
from bilevel.hypergradient.derivatives import vector_jacobian

if TYPE_CHECKING:
    from bilevel.protocols import LowerLevel, UpperLevel
    from bilevel.replay.recording import StepRecord

__all__ = ["SettingsAdjoint", "check_step_settings"]


def check_step_settings(estimator: Hypergradient | None, lower: LowerLevel) -> None:
    """Refuse an estimator that would leave out what upper variables do to the optimiser's steps.

    Args:
        estimator: of ``lower``; None for one of Betty's own.

    Raises:
        UserError: there are such variables, and the estimator has no derivative of a step by them.
    """
    known = estimator is not None and estimator.knows_step_settings
    if lower.parents and lower.step_settings() and not known:
        name = lower.config.type if estimator is None else estimator.name
        raise UserError(
            f"hypergradient={name} has no derivative by the optimiser's own settings, and upper "
            f"variables decide learning rates or weight decays of problem {lower.name!r}: take "
            "hypergradient=unrolled"
        )


class SettingsAdjoint:
    """The sum over the steps of one window.

    Attributes:
        wanted: whether the level has settings that upper variables decide.
    """

    def __init__(self, lower: LowerLevel, upper: UpperLevel) -> None:
        self._lower, self._upper = lower, upper
        self._total: list[dict[str, Tensor]] = [{} for _ in lower.step_settings()]
        self.wanted = bool(self._total)

    def add(self, step: StepRecord, adjoints: Sequence[Mapping[str, Tensor]]) -> None:
        """Add those of one step, by param group: of ``lr`` and ``weight_decay`` in force."""
        for i, total in enumerate(self._total):
            for name, adjoint in adjoints[i].items():
                part = step.rates[i] * adjoint if name == "lr" else adjoint
                total[name] = total[name] + part if name in total else part

    def implicit_term(self) -> list[Tensor]:
        """Their part of (dV/dE)^T v, one tensor per parameter of the upper level."""
        lower, upper = self._lower, self._upper
        seen = lower.recorded.upper_values
        leaves = [value.detach().requires_grad_() for value in seen[upper.name]]
        with ExitStack() as stack, torch.enable_grad():
            stack.enter_context(upper.slots.holding(leaves))
            for other in lower.ancestors:
                if other is not upper and other.name in seen:
                    stack.enter_context(other.slots.holding(seen[other.name]))
            settings = lower.step_settings()
        outputs: list[Tensor] = []
        cotangents: list[Tensor] = []
        for setting, adjoint in zip(settings, self._total, strict=True):
            for name, value in (("lr", setting.lr), ("weight_decay", setting.weight_decay)):
                if value is not None and name in adjoint:
                    outputs.append(value)
                    cotangents.append(adjoint[name].to(value).reshape(value.shape))
        return vector_jacobian(outputs, leaves, cotangents)
