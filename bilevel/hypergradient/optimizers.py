r"""PyTorch's SGD, Adam and AdamW as differentiable functions, and vector-Jacobian products of them.

Reverse mode through training needs each optimiser step as a function

.. math:: (w_{t+1}, s_{t+1}) = \Phi_t(w_t, g_t, s_t)

of the weights :math:`w`, the gradients :math:`g` and the optimiser's own state :math:`s` (momentum
or moments), and adjoints :math:`(\bar w, \bar g, \bar s)_t` from :math:`(\bar w, \bar s)_{t+1}`.
A LoRA adapter is many small tensors, so everything that shares hyperparameters and step count is
laid end to end in one vector first: a step is a few dozen kernels however many layers there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from bilevel.errors import UserError
from bilevel.hypergradient.optimizer_state import (
    GroupHyper,
    OptimizerSnapshot,
    State,
    check_supported,
    clone_together,
    lay_flat,
    snapshot,
    split_like,
)

__all__ = [
    "Bucket",
    "GroupHyper",
    "OptimizerSnapshot",
    "StepAdjoints",
    "advance",
    "check_supported",
    "clone_together",
    "functional_step",
    "gather",
    "or_zeros",
    "scatter",
    "set_by_tensors",
    "snapshot",
    "step_adjoints",
    "step_vjp",
]


class StepAdjoints(NamedTuple):
    """Adjoints of what a step was taken with.

    Attributes:
        params, grads: of each parameter before the step, and of its gradient; the latter None
            where the gradient is.
        state: of the optimiser's state tensors, by name.
        settings: of each param group's ``lr`` and ``weight_decay``, scalars; empty unless asked
            for, and for groups without a gradient.
    """

    params: list[Tensor]
    grads: list[Tensor | None]
    state: list[dict[str, Tensor]]
    settings: list[dict[str, Tensor]]


@dataclass
class Bucket:
    """Parameters whose step is one and the same elementwise function, as flat vectors."""

    members: list[int]
    likes: list[Tensor]  # the parameters, for their shapes
    hyper: GroupHyper
    step: float | Tensor  # steps taken before this one; one entry an element if it is a tensor
    params: Tensor
    grads: Tensor
    state: dict[str, Tensor]


def functional_step(
    snapshot: OptimizerSnapshot,
    params: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    max_norm: float = 0.0,
) -> tuple[list[Tensor], list[State]]:
    """One step, differentiable in ``params``, ``grads`` and the snapshot's state tensors.

    ``max_norm > 0`` clips the gradients (as computed, before clipping) by their global norm, as
    ``torch.nn.utils.clip_grad_norm_`` does. A parameter whose gradient is None is left alone.
    Returns the new parameters and the new state, for ``replace(snapshot, state=...)``.
    """
    new_params = list(params)
    new_state = [dict(state) for state in snapshot.state]
    buckets = gather(snapshot, params, grads)
    for bucket, (p, state) in zip(buckets, advance(buckets, max_norm), strict=True):
        scatter(bucket, p, new_params)
        for name, vector in state.items():
            pieces = split_like(vector, bucket.likes)
            for i, piece in zip(bucket.members, pieces, strict=True):
                new_state[i][name] = piece
        if bucket.hyper.adam:
            for i in bucket.members:
                new_state[i]["step"] = snapshot.state[i]["step"] + 1
    return new_params, new_state


def step_vjp(
    snapshot: OptimizerSnapshot,
    params: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    grad_params: Sequence[Tensor | None],
    grad_state: Sequence[dict[str, Tensor]],
    max_norm: float = 0.0,
) -> tuple[list[Tensor], list[Tensor | None], list[dict[str, Tensor]]]:
    """Adjoints of (params, grads, state) from adjoints of (new params, new state) of one step.

    A missing adjoint (None, or a name not in ``grad_state[i]``) counts as zero. The adjoint of a
    gradient that is None is None. Only values are used; the results carry no graph.
    """
    return step_adjoints(snapshot, params, grads, grad_params, grad_state, max_norm)[:3]


def step_adjoints(
    snapshot: OptimizerSnapshot,
    params: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    grad_params: Sequence[Tensor | None],
    grad_state: Sequence[dict[str, Tensor]],
    max_norm: float = 0.0,
    settings: bool = False,
) -> StepAdjoints:
    """:func:`step_vjp`, with the adjoints of learning rates and weight decays if ``settings``."""
    adj_params = [or_zeros(a, p) for a, p in zip(grad_params, params, strict=True)]
    adj_grads: list[Tensor | None] = [None] * len(adj_params)
    adj_state = [dict(state) for state in grad_state]  # kept where there is no gradient
    adj_settings: list[dict[str, Tensor]] = [{} for _ in snapshot.hypers]
    with torch.no_grad():
        buckets = gather(snapshot, params, grads)
    leaves = [v for b in buckets for v in (b.params, b.grads, *b.state.values())]
    if not leaves:
        return StepAdjoints(adj_params, adj_grads, adj_state, adj_settings)
    set_by = [set_by_tensors(bucket) for bucket in buckets] if settings else []
    leaves += [value for values in set_by for value in values.values()]
    for leaf in leaves:
        leaf.requires_grad_()
    outputs: list[Tensor] = []
    cotangents: list[Tensor] = []
    with torch.enable_grad():
        results = advance(buckets, max_norm)
    for bucket, (p, state) in zip(buckets, results, strict=True):
        outputs.append(p)
        cotangents.append(lay_flat([adj_params[i] for i in bucket.members]))
        for name, vector in state.items():
            adjoints = [grad_state[i].get(name) for i in bucket.members]
            if any(a is not None for a in adjoints):
                outputs.append(vector)
                cotangents.append(lay_flat(list(map(or_zeros, adjoints, bucket.likes))))
    found = iter(
        torch.autograd.grad(outputs, leaves, cotangents, allow_unused=True, materialize_grads=True)
    )
    for bucket in buckets:
        scatter(bucket, next(found), adj_params)
        scatter(bucket, next(found), adj_grads)
        for i in bucket.members:
            adj_state[i] = {}
        for name in bucket.state:
            pieces = split_like(next(found), bucket.likes)
            for i, piece in zip(bucket.members, pieces, strict=True):
                adj_state[i][name] = piece
    for bucket, values in zip(buckets, set_by, strict=False):  # none unless asked for
        of_group = adj_settings[snapshot.group_of[bucket.members[0]]]
        for name in values:  # a group may fill several buckets
            part = next(found)
            of_group[name] = of_group[name] + part.to(of_group[name]) if name in of_group else part
    return StepAdjoints(adj_params, adj_grads, adj_state, adj_settings)


def set_by_tensors(bucket: Bucket) -> dict[str, Tensor]:
    """Let a bucket's learning rate and weight decay be tensors of their own; returns them."""
    like = bucket.params

    def tensor(value: float | Tensor) -> Tensor:
        if isinstance(value, Tensor):
            return value.detach().to(like, copy=True)
        return torch.full((), value, dtype=like.dtype, device=like.device)  # no copy to wait for

    values = {"lr": tensor(bucket.hyper.lr), "weight_decay": tensor(bucket.hyper.weight_decay)}
    bucket.hyper = replace(bucket.hyper, lr=values["lr"], weight_decay=values["weight_decay"])
    return values


def gather(
    snapshot: OptimizerSnapshot, params: Sequence[Tensor], grads: Sequence[Tensor | None]
) -> list[Bucket]:
    """The parameters that have a gradient, in buckets.

    Raises:
        UserError: a gradient is sparse.
    """
    groups: dict[tuple, list[int]] = {}
    for i, (param, grad) in enumerate(zip(params, grads, strict=True)):
        if grad is None:
            continue
        if grad.is_sparse:
            raise UserError(
                f"the gradient of parameter {i} is sparse: only dense gradients can be "
                "differentiated through an optimiser step, build the embedding with sparse=False"
            )
        state = snapshot.state[i]
        step = state.get("step", 0.0)
        # A step count on an accelerator is not read: it becomes a vector instead of a key.
        key = "on device" if isinstance(step, Tensor) else step
        names = tuple(name for name in state if name != "step")
        kind = (snapshot.group_of[i], key, names, param.dtype, param.device)
        groups.setdefault(kind, []).append(i)
    buckets = []
    for (group, step, names, *_), members in groups.items():
        likes = [params[i] for i in members]
        if step == "on device":
            step = torch.cat(
                [snapshot.state[i]["step"].expand(params[i].numel()) for i in members]
            ).to(likes[0].dtype)
        buckets.append(
            Bucket(
                members=members,
                likes=likes,
                hyper=snapshot.hypers[group],
                step=step,
                params=lay_flat(likes),
                grads=lay_flat([g for i in members if (g := grads[i]) is not None]),
                state={
                    name: lay_flat([snapshot.state[i][name] for i in members]) for name in names
                },
            )
        )
    return buckets


def scatter(bucket: Bucket, vector: Tensor, target: list) -> None:
    """Put a bucket's flat ``vector`` into the places of its members in ``target``."""
    for i, piece in zip(bucket.members, split_like(vector, bucket.likes), strict=True):
        target[i] = piece


def or_zeros(adjoint: Tensor | None, like: Tensor) -> Tensor:
    """``adjoint`` without its graph; zeros for None."""
    return torch.zeros_like(like) if adjoint is None else adjoint.detach()


def advance(buckets: list[Bucket], max_norm: float) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Each bucket's parameters and state after the step, flat, differentiable in what they hold."""
    grads: Iterable[Tensor] = [bucket.grads for bucket in buckets]
    if max_norm > 0 and buckets:
        # clip_grad_norm_: g * min(1, max_norm / (|g| + 1e-6)), one norm over everything.
        device = buckets[0].grads.device
        norms = [torch.linalg.vector_norm(g).to(device) for g in grads]
        scale = (max_norm / (torch.linalg.vector_norm(torch.stack(norms)) + 1e-6)).clamp(max=1.0)
        grads = [g * scale.to(g.device, g.dtype) for g in grads]
    return [
        (_adam if bucket.hyper.adam else _sgd)(bucket, g)
        for bucket, g in zip(buckets, grads, strict=True)
    ]


def _sgd(bucket: Bucket, g: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    hyper, p = bucket.hyper, bucket.params
    if hyper.maximize:
        g = -g
    if not _is_zero(hyper.weight_decay):
        g = g + hyper.weight_decay * p
    if hyper.momentum == 0:
        return p - hyper.lr * g, {}
    held = bucket.state.get("momentum_buffer")
    # The first buffer is the gradient itself: dampening starts with the second step.
    buffer = g if held is None else hyper.momentum * held + (1 - hyper.dampening) * g
    g = g + hyper.momentum * buffer if hyper.nesterov else buffer
    return p - hyper.lr * g, {"momentum_buffer": buffer}


def _adam(bucket: Bucket, g: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    hyper, p, step = bucket.hyper, bucket.params, bucket.step + 1
    if hyper.maximize:
        g = -g
    if not _is_zero(hyper.weight_decay):
        if hyper.decoupled:
            p = p * (1 - hyper.lr * hyper.weight_decay)
        else:
            g = g + hyper.weight_decay * p
    mean = torch.lerp(bucket.state["exp_avg"], g, 1 - hyper.beta1)
    square = torch.addcmul(hyper.beta2 * bucket.state["exp_avg_sq"], g, g, value=1 - hyper.beta2)
    state = {"exp_avg": mean, "exp_avg_sq": square}
    if hyper.amsgrad:
        square = torch.maximum(bucket.state["max_exp_avg_sq"], square)
        state["max_exp_avg_sq"] = square
    correction = 1 - hyper.beta2**step
    denominator = _safe_sqrt(square) / correction**0.5 + hyper.eps
    size = hyper.lr / (1 - hyper.beta1**step)
    if isinstance(size, Tensor):
        return p - size * (mean / denominator), state
    return torch.addcdiv(p, mean, denominator, value=-size), state


def _safe_sqrt(x: Tensor) -> Tensor:
    """Square root whose derivative at 0 is 0.

    LoRA's A has zero gradients while B is zero. There the first moment is zero too, which cancels
    the infinite slope of the root; autograd would make NaN (infinity times zero) of it. A clamp at
    the smallest positive number stops the slope at 0 and changes no other value.
    """
    kind = torch.finfo(x.dtype)
    return x.clamp(min=kind.tiny * kind.eps).sqrt()


def _is_zero(value: float | Tensor) -> bool:
    return not isinstance(value, Tensor) and value == 0
