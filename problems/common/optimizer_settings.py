"""Optimisers and schedules of the levels, and the checks that settings share."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import get_scheduler

from bilevel.errors import UserError

__all__ = [
    "OptimizerSettings",
    "Parameters",
    "check_choice",
    "check_range",
    "optimizer_and_scheduler",
    "warm_up",
]


log = logging.getLogger(__name__)

# Those of one group, or groups as torch.optim takes them, each with a learning rate of its own.
Parameters = Sequence[nn.Parameter] | Sequence[dict[str, Any]]


SCHEDULES = (
    *("linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt"),
    *("constant", "constant_with_warmup"),
)


OPTIMIZERS = ("adamw", "adam", "sgd")


def check_choice(what: str, value: str, allowed: Sequence[str]) -> None:
    """Raise UserError unless a setting is one of those allowed."""
    if value not in allowed:
        raise UserError(f"unknown {what} {value!r}; allowed: {', '.join(allowed)}")


def check_range(what: str, value: Any, fits: bool, range_: str) -> None:
    """Raise UserError unless a setting's value ``fits`` its range."""
    if not fits:
        raise UserError(f"{what} must be {range_}, got {value}")


@dataclass(frozen=True)
class OptimizerSettings:
    """An optimiser with its schedule.

    Attributes:
        name: adamw, adam or sgd (torch.optim's).
        lr: learning rate; None takes the job's.
        betas, eps: of Adam and AdamW. momentum: of SGD.
        weight_decay: decoupled for adamw, L2 otherwise.
        schedule: one of transformers' schedules: linear, cosine, cosine_with_restarts, polynomial,
            inverse_sqrt, constant, constant_with_warmup.
        warmup_ratio: share of the steps in which the learning rate rises from 0; where it is more
            than 0, the job's number of steps goes before it.

    Raises:
        UserError: an unknown optimiser or schedule, or a number out of range.
    """

    name: str = "adamw"
    lr: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: str = "linear"
    warmup_ratio: float = 0.06

    def __post_init__(self) -> None:
        check_choice("optimizer", self.name, OPTIMIZERS)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_range("lr", self.lr, self.lr is None or self.lr > 0, "more than 0")
        for name in ("eps", "momentum", "weight_decay"):
            check_range(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        within = all(0 <= beta < 1 for beta in self.betas)
        check_range("betas", list(self.betas), within, "in [0, 1)")
        check_range("warmup_ratio", self.warmup_ratio, 0 <= self.warmup_ratio <= 1, "in [0, 1]")


def warm_up(settings: OptimizerSettings, steps: int, given: int | None) -> int:
    """Steps of ``steps`` in which the learning rate rises from 0.

    Args:
        settings: with the share, for where no number is given. A share of 0 means that this level
            has no warm-up, whatever the others have.
        steps: of the optimiser, in the stage.
        given: the job's train.warmup_steps.
    """
    if given is None or settings.warmup_ratio == 0:
        return int(settings.warmup_ratio * steps)
    if given >= steps and settings.schedule != "constant":  # which has none
        log.warning(
            "train.warmup_steps=%d are not less than the %d steps of an optimiser in this stage: "
            "its learning rate never reaches the full value",
            *(given, steps),
        )
    return given


def optimizer_and_scheduler(
    settings: OptimizerSettings,
    parameters: Parameters,
    steps: int,
    default_lr: float | None,
    warmup_steps: int | None = None,
) -> tuple[torch.optim.Optimizer, Any]:
    """Build the optimiser and its schedule over ``steps`` optimiser steps.

    Args:
        settings: of both.
        parameters: to be trained.
        steps: length of the schedule.
        default_lr: where the settings name no rate.
        warmup_steps: the job's number of warm-up steps; None leaves it to the settings' share.

    Raises:
        UserError: no learning rate.
    """
    lr = settings.lr if settings.lr is not None else default_lr
    if lr is None:
        raise UserError("no learning rate is set: give the method's lr or train.lr")
    if settings.name in ("adamw", "adam"):
        cls = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
        optimizer: torch.optim.Optimizer = cls(
            parameters,
            lr=lr,
            betas=(settings.betas[0], settings.betas[1]),
            eps=settings.eps,
            weight_decay=settings.weight_decay,
        )
    else:
        optimizer = torch.optim.SGD(
            parameters, lr=lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
    scheduler = get_scheduler(
        settings.schedule,
        optimizer,
        num_warmup_steps=warm_up(settings, steps, warmup_steps),
        num_training_steps=steps,
    )
    return optimizer, scheduler
