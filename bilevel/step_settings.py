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
from bilevel.precision import in_float64

if TYPE_CHECKING:
    from bilevel.protocols import LowerLevel

__all__ = [
    "StepSettings",
    "check_scaler",
    "in_force",
    "reads_settings",
    "step_with_tensors",
    "take_step",
]


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
    optimizer: torch.optim.Optimizer | None,
    settings: Sequence[StepSettings],
    name: str,
    read: bool = True,
) -> Iterator[None]:
    """Inside the block the param groups have these settings, after it their own again.

    Args:
        optimizer: whose groups; None only without settings.
        settings: one a group, in their order; none leaves all as they are.
        name: of the level, for messages.
        read: put numbers there, which an accelerator has to be waited for to have; without, the
            tensors as they are.

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
                values.append(value.detach().reshape(()))
    numbers: Sequence[float | Tensor] = values
    if read:
        numbers = torch.stack([in_float64(value) for value in values]).tolist() if values else []
    for (group, key), number in zip(places, numbers, strict=True):
        group[key] = group["lr"] * number if key == "lr" else number
    try:
        yield
    finally:
        for group, (lr, decay) in zip(groups, own, strict=True):
            group["lr"], group["weight_decay"] = lr, decay


def reads_settings(level: LowerLevel) -> bool:
    """Whether the settings of a level's steps are read as numbers, as torch's optimisers take them.

    Not on a GPU: there the step is taken with tensors, and nobody waits. But fp16's scaler waits in
    any case, and on Apple's none of torch's optimisers have been tried with tensors.
    """
    return torch.device(level.device).type in ("cpu", "mps") or level.scaler is not None


def check_scaler(level: LowerLevel) -> None:
    """Refuse a gradient scaler that has no optimiser whose gradients it could unscale.

    Raises:
        UserError: the level is in fp16 and steps by ``custom_optimizer_step`` alone.
    """
    if level.scaler is not None and level.optimizer is None:
        raise UserError(
            f"problem {level.name!r} has no optimizer, and precision=fp16 scales the gradients of "
            "one: give it the optimizer that custom_optimizer_step stands for, or take bf16 or fp32"
        )


def take_step(level: LowerLevel, *args: Any, **kwargs: Any) -> None:
    """Step a level's optimiser with its settings in force, through the scaler of fp16.

    A ``custom_optimizer_step``, which is given the other arguments, takes the step in its place.
    """
    if level.is_implemented("custom_optimizer_step"):
        _custom_step(level, *args, **kwargs)
        return
    settings, read = level.step_settings(), reads_settings(level)
    with in_force(level.optimizer, settings, level.name, read):
        if settings and not read:
            step_with_tensors(level.optimizer)
        elif level.scaler is None:
            level.optimizer.step()
        else:
            level.scaler.step(level.optimizer)
            level.scaler.update()


def _custom_step(level: Any, *args: Any, **kwargs: Any) -> None:
    """The level's own step; as fp16's scaler would have it, none with gradients not finite."""
    if level.scaler is None:
        level.custom_optimizer_step(*args, **kwargs)
        return
    before = level.scaler.state_dict()
    grads = [p.grad for p in level.trainable_parameters() if p.grad is not None]
    if all(bool(torch.isfinite(grad).all()) for grad in grads):
        level.custom_optimizer_step(*args, **kwargs)
    # Each update changes the scale or counts a step: a hook may have seen to it by itself.
    if level.scaler.state_dict() == before:
        level.scaler.update()


@torch.no_grad()
def step_with_tensors(optimizer: torch.optim.Optimizer) -> None:
    """Take a step of torch's SGD, Adam or AdamW whose rates and decays may be tensors.

    The same as ``optimizer.step()``, which would read them.

    Raises:
        UserError: another optimiser.
    """
    from bilevel.hypergradient.optimizers import functional_step, snapshot

    # As torch's schedulers have optimizer.step() do, or they warn that it was never called.
    optimizer._opt_called = True  # type: ignore[attr-defined]
    params = [p for group in optimizer.param_groups for p in group["params"]]
    grads = [p.grad for p in params]
    after, states = functional_step(snapshot(optimizer, params), params, grads)
    for p, new, state in zip(params, after, states, strict=True):
        if p.grad is None:
            continue
        p.copy_(new)
        held = optimizer.state[p]
        for name, value in state.items():
            if isinstance(held.get(name), Tensor):
                held[name].copy_(value) if isinstance(value, Tensor) else held[name].fill_(value)
            else:  # the first step; torch counts on the host, in fp32
                held[name] = value.clone() if isinstance(value, Tensor) else torch.tensor(value)
