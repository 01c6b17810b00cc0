"""Let upper variables set how a lower level's optimiser steps: rates and decays, in no loss.

A step is (V, s) <- Phi(V, g, s; eta m(E), d(E)) with the scheduled learning rate eta of each param
group, its factor m and its weight decay d. What stands here decides Phi alone, not g: under Adam,
whose step is the gradient over its own size, a factor of the loss would change next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bilevel.errors import UserError

if TYPE_CHECKING:
    from bilevel.protocols import LowerLevel

__all__ = ["StepSettings", "in_force", "take_step"]


@dataclass(frozen=True)
class StepSettings:
    """What the steps of one param group take from upper variables: scalar tensors, functions of E.

    Attributes:
        lr: m, the factor of the learning rate that the group's schedule has come to; None for 1.
        weight_decay: d in the place of the group's own: decoupled in AdamW, added to the gradient
            (as d V) in Adam and SGD; None for the group's own.
    """

    lr: Tensor | None = None
    weight_decay: Tensor | None = None


@contextmanager
def in_force(
    optimizer: torch.optim.Optimizer | None, settings: Sequence[StepSettings], name: str
) -> Iterator[None]:
    """Inside the block the param groups have these settings, after it their own again.

    torch's optimisers take numbers, so on an accelerator this waits for it, once.

    Args:
        optimizer: whose groups; None only without settings.
        settings: one a group, in their order; none leaves all as they are.
        name: of the level, for messages.

    Raises:
        UserError: there are not as many settings as groups.
    """
    if not settings:
        yield
        return
    groups: list[dict[str, Any]] = [] if optimizer is None else optimizer.param_groups
    if len(settings) != len(groups):
        raise UserError(
            f"step_settings of problem {name!r} returns {len(settings)} settings, and its "
            f"optimizer has {len(groups)} param groups: return one for each, in their order"
        )
    own = [(group["lr"], group["weight_decay"]) for group in groups]
    places, values = [], []
    for group, setting in zip(groups, settings, strict=True):
        for key, value in (("lr", setting.lr), ("weight_decay", setting.weight_decay)):
            if value is not None:
                places.append((group, key))
                values.append(value.detach().double().reshape(()))
    numbers = torch.stack(values).tolist() if values else []
    for (group, key), number in zip(places, numbers, strict=True):
        group[key] = group["lr"] * number if key == "lr" else number
    try:
        yield
    finally:
        for group, (lr, decay) in zip(groups, own, strict=True):
            group["lr"], group["weight_decay"] = lr, decay


def take_step(level: LowerLevel) -> None:
    """Step a level's optimiser with its settings in force, through the scaler of fp16."""
    with in_force(level.optimizer, level.step_settings(), level.name):
        if level.scaler is None:
            level.optimizer.step()
        else:
            level.scaler.step(level.optimizer)
            level.scaler.update()
