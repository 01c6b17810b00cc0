"""Take the state of one level, and put it back so that it goes on as if it had never stopped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bilevel.data import ResumableLoader, SavesPosition
from bilevel.errors import UserError
from bilevel.nests import clone_nested
from bilevel.replay.parameter_slots import ParameterSlots

__all__ = ["put_back", "take"]


class _Level(Protocol):
    """What of a level decides its future."""

    estimator_state: dict[str, Any]
    epoch_counter: list[int] | None
    train_data_iterator: Any

    @property
    def name(self) -> str: ...

    @property
    def count(self) -> int: ...

    @property
    def module(self) -> nn.Module: ...

    @property
    def optimizer(self) -> Any: ...

    @property
    def scheduler(self) -> Any: ...

    @property
    def scaler(self) -> Any: ...

    @property
    def train_data_loader(self) -> Any: ...

    @property
    def slots(self) -> ParameterSlots: ...

    def trainable_parameters(self) -> list[nn.Parameter]: ...

    def extra_state(self) -> dict[str, Any]: ...

    def load_extra_state(self, state: dict[str, Any]) -> None: ...


def take(level: _Level) -> dict[str, Any]:
    """Everything of ``level`` that decides its future; no frozen weights. Tensors are live.

    Raises:
        UserError: a data loader without a position.
    """
    running = {id(buffer) for buffer in level.slots.running_statistics()}
    state: dict[str, Any] = {
        "parameters": [p.detach() for p in level.trainable_parameters()],
        "buffers": {n: b for n, b in level.module.named_buffers() if id(b) in running},
        "count": level.count,
        "epochs": list(level.epoch_counter or []),
        "estimator": level.estimator_state,
        "extra": level.extra_state(),
        "loaders": [],
    }
    state |= {name: part.state_dict() for name, part in _stateful(level).items()}
    for loader in level.train_data_loader or ():
        if not isinstance(loader, SavesPosition):
            raise UserError(
                f"the data loader of problem {level.name!r} ({type(loader).__name__}) cannot save "
                "its position; use bilevel.data.ResumableLoader to make checkpoints"
            )
        state["loaders"].append(loader.state_dict())
    return state


def put_back(level: _Level, state: Mapping[str, Any]) -> None:
    """Undo :func:`take`, but for the level's step count, which is its own.

    The state stays as it is, and can be put back again.

    Raises:
        UserError: the state is of a level with other parameters.
    """
    mine = level.trainable_parameters()
    shapes = [tuple(p.shape) for p in state["parameters"]]
    if shapes != [tuple(p.shape) for p in mine]:
        raise UserError(
            f"the saved state of problem {level.name!r} holds {len(shapes)} parameters of other "
            f"number or shape than the {len(mine)} of the current one; it is another run's"
        )
    _check_groups(level, state)
    buffers: dict[str, Tensor] = dict(level.module.named_buffers())
    with torch.no_grad():
        for p, value in zip(mine, state["parameters"], strict=True):
            p.copy_(value)
        for name, value in state["buffers"].items():
            buffers[name].copy_(value)
    # Copies: torch's optimisers, estimators and subclasses go on with what they are given.
    state = {k: v if k in ("parameters", "buffers") else clone_nested(v) for k, v in state.items()}
    for name, part in _stateful(level).items():
        part.load_state_dict(state[name])
    level.epoch_counter = list(state["epochs"])
    level.estimator_state = state["estimator"]
    level.load_extra_state(state["extra"])
    for i, loader_state in enumerate(state["loaders"]):
        loader = level.train_data_loader[i]
        loader.load_state_dict(loader_state)
        # An epoch that is all handed out ends at the next batch asked for, with its callback.
        at_start = isinstance(loader, ResumableLoader) and loader.position == 0
        spent = state["count"] > 0 and at_start
        level.train_data_iterator[i] = iter(()) if spent else iter(loader)


def _check_groups(level: _Level, state: Mapping[str, Any]) -> None:
    """Refuse an optimiser of other groups, of which torch has no sentence.

    Raises:
        UserError: as of a run by a version that grouped its parameters otherwise.
    """
    saved = state.get("optimizer")
    if level.optimizer is None or not isinstance(saved, dict) or "param_groups" not in saved:
        return
    there, here = len(saved["param_groups"]), len(level.optimizer.param_groups)
    if there != here:
        raise UserError(
            f"the checkpoint's optimizer of {level.name!r} has {there} groups of parameters, and "
            f"this one {here}: it is of another version, start the run afresh"
        )


def _stateful(level: _Level) -> dict[str, Any]:
    parts = {
        "optimizer": level.optimizer,
        "scheduler": level.scheduler,
        "scaler": level.scaler,
    }
    return {name: part for name, part in parts.items() if part is not None}
