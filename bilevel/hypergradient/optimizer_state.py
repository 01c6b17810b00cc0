"""Copy what an optimiser step depends on beside weights and gradients, just before the step."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# DistributedDataParallel's own; in Python the many views cost as much as the arithmetic.
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.optim import SGD, Adam, AdamW, Optimizer

from bilevel.errors import UserError

__all__ = [
    "GroupHyper",
    "OptimizerSnapshot",
    "State",
    "check_supported",
    "clone_together",
    "lay_flat",
    "snapshot",
    "split_like",
]

State = dict[str, Any]  # name -> tensor of the parameter's shape; "step" -> float or 0-d tensor


@dataclass(frozen=True)
class GroupHyper:
    """Hyperparameters of one param group as they were at a step (``adam``: Adam and AdamW).

    A number that lives on an accelerator stays there, so that nothing is read back.
    """

    adam: bool
    lr: float | Tensor
    weight_decay: float | Tensor
    maximize: bool
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    amsgrad: bool = False
    decoupled: bool = False


@dataclass(frozen=True)
class OptimizerSnapshot:
    """Per parameter i: its state ``state[i]``, its hyperparameters ``hypers[group_of[i]]``.

    To go on from a functional step: ``dataclasses.replace(snapshot, state=new_state)``.
    """

    hypers: tuple[GroupHyper, ...]
    group_of: tuple[int, ...]
    state: list[State]


def check_supported(optimizer: Optimizer) -> None:
    """Raise :class:`UserError` unless this package reproduces the optimiser's step exactly."""
    name = type(optimizer).__name__
    way_out = (
        "use torch.optim's SGD, Adam or AdamW as they are, or an estimator that needs no "
        "optimiser (hypergradient=finite_difference)"
    )
    if not any(_same_step(type(optimizer), known) for known in (SGD, Adam, AdamW)):
        raise UserError(f"cannot differentiate through the steps of optimiser {name}: {way_out}")
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        raise UserError(
            f"cannot differentiate through the steps of {name} with step hooks, which may change "
            f"what a step does: {way_out}"
        )
    for index, group in enumerate(optimizer.param_groups):
        where = f"param group {index} of {name}"
        if group.get("capturable") or group.get("differentiable"):
            raise UserError(
                f"{where} is capturable or differentiable, which is not supported here: leave both "
                f"options off, or {way_out}"
            )
        if any(isinstance(beta, Tensor) for beta in group.get("betas", ())):
            raise UserError(f"{where} has tensors for betas, which is not supported: give numbers")
        if any(_needs_grad(group[key]) for key in ("lr", "weight_decay")):
            raise UserError(
                f"lr or weight_decay of {where} requires a gradient: hypergradients of optimiser "
                "settings are not supported, detach it"
            )
        if any(p.is_complex() for p in group["params"]):
            raise UserError(f"{where} holds complex parameters: only real ones are supported")


def clone_together(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Detached copies made with one kernel a dtype and device (views of one buffer each)."""
    groups: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for i, tensor in enumerate(tensors):
        groups.setdefault((tensor.dtype, tensor.device), []).append(i)
    copies: dict[int, Tensor] = {}
    for members in groups.values():
        chosen = [tensors[i].detach() for i in members]
        copies.update(zip(members, split_like(lay_flat(chosen), chosen), strict=True))
    return [copies[i] for i in range(len(tensors))]


def snapshot(optimizer: Optimizer, params: Sequence[Tensor]) -> OptimizerSnapshot:
    """Copy state and hyperparameters of ``params``; never waits for the device.

    Call it before ``optimizer.step()``. A state that does not exist yet is what the optimiser would
    make: zero moments at step 0 for Adam, no buffer for SGD. Raises :class:`UserError` for an
    optimiser that is not supported, or a parameter it does not hold.
    """
    check_supported(optimizer)
    where = {id(p): i for i, group in enumerate(optimizer.param_groups) for p in group["params"]}
    hypers = tuple(_hyper(optimizer, group) for group in optimizer.param_groups)
    group_of: list[int] = []
    state: list[State] = []
    slots: list[tuple[int, str]] = []
    originals: list[Tensor] = []
    for index, param in enumerate(params):
        if id(param) not in where:
            raise UserError(
                f"trainable parameter {index} of shape {tuple(param.shape)} is not in the "
                f"{type(optimizer).__name__} given: add it to a param group, or freeze it"
            )
        hyper = hypers[where[id(param)]]
        group_of.append(where[id(param)])
        held = optimizer.state.get(param) or _fresh(hyper, param)
        state.append({"step": _host(held["step"])} if hyper.adam else {})
        for name in _tensor_names(hyper):
            if held.get(name) is not None:
                slots.append((index, name))
                originals.append(held[name])
    for (index, name), copy in zip(slots, clone_together(originals), strict=True):
        state[index][name] = copy
    return OptimizerSnapshot(hypers, tuple(group_of), state)


def lay_flat(tensors: Sequence[Tensor]) -> Tensor:
    """All elements end to end, in a new vector."""
    if len(tensors) == 1:  # which PyTorch's would not copy
        return tensors[0].reshape(-1).clone()
    return _flatten_dense_tensors(tensors)


def split_like(vector: Tensor, likes: Sequence[Tensor]) -> Sequence[Tensor]:
    """Undo :func:`lay_flat`: views of ``vector`` in the shapes of ``likes``."""
    return _unflatten_dense_tensors(vector, likes)


def _same_step(cls: type[Optimizer], known: type[Optimizer]) -> bool:
    # PyTorch wraps `step` of every class that is instantiated, hence the unwrapping.
    same = inspect.unwrap(cls.step) is inspect.unwrap(known.step)
    # Those steps call it, so that whatever has one of them has it.
    return same and cls._init_group is known._init_group  # type: ignore[attr-defined]


def _needs_grad(value: float | Tensor) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _host(value: float | Tensor) -> float | Tensor:
    """A number where reading it is free, else a copy that stays on its device."""
    if isinstance(value, Tensor) and value.device.type != "cpu":
        return value.detach().clone()
    return float(value)


def _hyper(optimizer: Optimizer, group: dict[str, Any]) -> GroupHyper:
    shared = {
        "lr": _host(group["lr"]),
        "weight_decay": _host(group["weight_decay"]),
        "maximize": group["maximize"],
    }
    if isinstance(optimizer, SGD):
        own = {key: group[key] for key in ("momentum", "dampening", "nesterov")}
        return GroupHyper(adam=False, **shared, **own)
    beta1, beta2 = group["betas"]
    return GroupHyper(
        adam=True,
        beta1=beta1,
        beta2=beta2,
        eps=group["eps"],
        amsgrad=group["amsgrad"],
        # Before PyTorch 2.7 AdamW was a class of its own, without this option.
        decoupled=group.get("decoupled_weight_decay", isinstance(optimizer, AdamW)),
        **shared,
    )


def _tensor_names(hyper: GroupHyper) -> tuple[str, ...]:
    if hyper.adam:
        return ("exp_avg", "exp_avg_sq") + (("max_exp_avg_sq",) if hyper.amsgrad else ())
    return ("momentum_buffer",) if hyper.momentum != 0 else ()


def _fresh(hyper: GroupHyper, param: Tensor) -> State:
    if not hyper.adam:
        return {}
    return {"step": 0.0, **{name: torch.zeros_like(param) for name in _tensor_names(hyper)}}
