"""Take derivatives by learning rates and decays to E: their adjoints over the steps, or tangents.

With h_t(E) the factors of the learning rates eta_t and the weight decays of step t,

    dL2/dE  +=  sum_t (dh_t/dE)^T a_{h_t},        a_m = eta_t a_lr for a factor m.

E stays what it is while the T1 steps are taken, so the sum is taken first. In forward mode a
direction r in the space of E gives the settings of a step the tangents (dh_t/dE) r.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bilevel.errors import UserError
from bilevel.hypergradient.base import Hypergradient
from bilevel.hypergradient.derivatives import jacobian_vector, vector_jacobian

if TYPE_CHECKING:
    from bilevel.protocols import LowerLevel, UpperLevel
    from bilevel.replay.recording import StepRecord
    from bilevel.step_settings import StepSettings

__all__ = ["SettingsAdjoint", "check_step_settings", "settings_tangents"]


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
            "hypergradient=unrolled, or forward where they are few"
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
        settings, leaves = _settings_of(self._lower, self._upper)
        outputs: list[Tensor] = []
        cotangents: list[Tensor] = []
        for setting, adjoint in zip(settings, self._total, strict=True):
            for name, value in (("lr", setting.lr), ("weight_decay", setting.weight_decay)):
                if value is not None and name in adjoint:
                    outputs.append(value)
                    cotangents.append(adjoint[name].to(value).reshape(value.shape))
        return vector_jacobian(outputs, leaves, cotangents)


def settings_tangents(
    lower: LowerLevel,
    upper: UpperLevel,
    step: StepRecord,
    directions: Sequence[Sequence[Tensor]],
) -> list[list[dict[str, Tensor]]]:
    """For each direction in the space of E: of each param group's settings in force at ``step``."""
    settings, leaves = _settings_of(lower, upper)
    places: list[tuple[int, str]] = []
    outputs: list[Tensor] = []
    for i, setting in enumerate(settings):
        for name, value in (("lr", setting.lr), ("weight_decay", setting.weight_decay)):
            if value is not None and value.requires_grad:
                places.append((i, name))
                outputs.append(value)
    found: list[list[dict[str, Tensor]]] = [[{} for _ in settings] for _ in directions]
    if not outputs:
        return found
    for groups, along in zip(found, jacobian_vector(outputs, leaves, directions), strict=True):
        for (i, name), tangent in zip(places, along, strict=True):
            of_value = tangent.reshape(())
            groups[i][name] = step.rates[i] * of_value if name == "lr" else of_value
    return found


def _settings_of(
    lower: LowerLevel, upper: UpperLevel
) -> tuple[Sequence[StepSettings], list[Tensor]]:
    """The settings as functions of E, and E as the steps saw it."""
    seen = lower.recorded.upper_values
    leaves = [value.detach().requires_grad_() for value in seen[upper.name]]
    with ExitStack() as stack, torch.enable_grad():
        stack.enter_context(upper.slots.holding(leaves))
        for other in lower.ancestors:
            if other is not upper and other.name in seen:
                stack.enter_context(other.slots.holding(seen[other.name]))
        return lower.step_settings(), leaves
