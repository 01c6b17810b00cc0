"""Handle lists of gradients: cut them, fill their gaps, add them to parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bilevel.distributed import World, averaged

__all__ = [
    "accumulate",
    "added",
    "cut",
    "filled",
    "mean_over_ranks",
    "mean_where_any",
    "unscaled",
]


def added(total: Sequence[Tensor] | None, more: Sequence[Tensor]) -> list[Tensor]:
    """``total`` + ``more``; None stands for zeros."""
    return list(more) if total is None else [a + b for a, b in zip(total, more, strict=True)]


def cut(
    items: Sequence[Tensor | None], groups: Sequence[Sequence[Tensor]]
) -> list[list[Tensor | None]]:
    """Cut ``items`` into lists as long as ``groups``."""
    lists, start = [], 0
    for group in groups:
        lists.append(list(items[start : start + len(group)]))
        start += len(group)
    return lists


def filled(grads: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    """``grads`` with zeros in the place of None."""
    return [torch.zeros_like(x) if g is None else g for g, x in zip(grads, like, strict=True)]


def accumulate(params: Sequence[nn.Parameter], grads: Sequence[Tensor | None]) -> None:
    """Add ``grads`` to the parameters' own.

    Autograd may hand out one tensor for two parameters, or a view of one number; what becomes a
    ``p.grad`` must have memory of its own, since clipping and unscaling work in place.
    """
    taken: set[int] = set()
    for param, grad in zip(params, grads, strict=True):
        if grad is None:
            continue
        if param.grad is not None:
            param.grad = param.grad + grad
            continue
        shared = grad.data_ptr() in taken or 0 in grad.stride()
        param.grad = grad.clone(memory_format=torch.contiguous_format) if shared else grad
        taken.add(grad.data_ptr())


def unscaled(
    grads: Sequence[Tensor | None], like: Sequence[Tensor], inverse: Tensor | None
) -> list[Tensor]:
    """Gradients of the loss itself, which a scaler has multiplied; zeros where there is none."""
    return [
        torch.zeros_like(x) if g is None else (g if inverse is None else g * inverse)
        for g, x in zip(grads, like, strict=True)
    ]


def mean_over_ranks(
    grads: Sequence[Tensor | None], like: Sequence[Tensor], world: World
) -> list[Tensor]:
    """Mean over ranks, with zeros for None (ranks may differ in it) and for an empty list."""
    whole = filled(grads or [None] * len(like), like)
    return whole if world.world_size == 1 else averaged(whole, world)


def mean_where_any(
    grads: Sequence[Tensor | None], like: Sequence[Tensor], world: World
) -> list[Tensor | None]:
    """Mean over ranks, with zeros for None; None where no rank has a gradient.

    An optimiser passes over None, where of zeros it would make a step, by its weight decay or its
    momentum. All ranks must come here, and take the same collectives whatever they have.
    """
    has = torch.ones(len(grads), device=world.device)  # filled there: a copy would wait for it
    missing = [i for i, grad in enumerate(grads) if grad is None]
    for i in missing:
        has[i] = 0.0
    *means, somewhere = averaged([*filled(grads, like), has], world)
    found: list[Tensor | None] = list(means)
    # Who has a gradient need not look, which waits for the device.
    shares = somewhere[missing].tolist() if missing else []
    for i, share in zip(missing, shares, strict=True):
        if share == 0.0:
            found[i] = None
    return found
