"""Make the optimiser and the schedule that settings name."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import get_scheduler

from bilevel.errors import UserError
from problems.common.optimizer_settings import OptimizerSettings

__all__ = ["Parameters", "optimizer_and_scheduler", "warm_up"]

log = logging.getLogger(__name__)

# Those of one group, or groups as torch.optim takes them, each with a learning rate of its own.
Parameters = Sequence[nn.Parameter] | Sequence[dict[str, Any]]


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
