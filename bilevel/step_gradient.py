"""Gather a level's gradient over the micro-batches and ranks of an optimiser step."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from betty.hypergradient import jvp_fn_mapping
from torch import Tensor, nn

from bilevel import gradients, graph
from bilevel.errors import UserError, listed
from bilevel.protocols import LowerLevel

if TYPE_CHECKING:
    from bilevel.replay.recorder import StepRecorder

__all__ = ["StepGradient", "loss_of"]

log = logging.getLogger(__name__)


def loss_of(result: Any, name: str) -> Tensor:
    """The loss in what ``training_step`` of the problem ``name`` returned.

    Raises:
        UserError: it returned neither one number nor a mapping with one as ``loss``.
    """
    loss = result.get("loss") if isinstance(result, Mapping) else result
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return loss
    if isinstance(loss, Tensor):
        found = f"a tensor of shape {tuple(loss.shape)}"
    elif isinstance(result, Mapping):
        found = f"a {type(result).__name__} with {listed(result)}"
    else:
        found = "None" if result is None else f"a {type(result).__name__}"
    raise UserError(
        f"training_step of problem {name!r} returned {found}: it must return the loss, a tensor of "
        "one number, or a dict with it as 'loss'"
    )


class _Level(LowerLevel, Protocol):
    """Whose gradient is gathered."""

    @property
    def recorder(self) -> StepRecorder: ...

    @property
    def paths(self) -> Sequence[Sequence[Any]]: ...

    def scaled(self, value: Tensor) -> Tensor: ...


class StepGradient:
    """dL2/dE = direct partial + sum over paths of (d best response / dE)^T v, v = dL2/dV.

    The implicit terms are taken once a step, of the v of all its micro-batches: not every estimator
    of them is linear in v.
    """

    def __init__(self) -> None:
        self._vectors: dict[int, list[Tensor]] = {}  # v so far, by the path's place
        # Whether the first step's loss depends on what the level trains; None before its batches.
        self._reached: bool | None = None
        self._looked = False  # that step is taken

    def add(
        self,
        level: _Level,
        loss: Tensor,
        params: Sequence[nn.Parameter],
        paths: Sequence[Sequence[Any]],
        counts: bool = True,
        **options: Any,
    ) -> None:
        """Add a micro-batch's direct gradient, and its v along each path.

        They come out of one backward pass (Betty takes two), whose options these are. One that does
        not count is taken along with other processes, and adds nothing.
        """
        record, inverse = level.recorder.current, level.inverse_scale
        leaves = None if record is None or record.graph is None else record.graph[0]
        if leaves is not None:
            options |= {"create_graph": True, "retain_graph": True}
        live = {i: path for i, path in enumerate(paths) if not graph.stops_gradient(path)}
        with_upper = record is not None and level.recorder.needs.upper_gradient
        uppers = level.parents if with_upper else []
        groups: list[Sequence[Tensor]] = [params if leaves is None else leaves]
        groups += [path[1].meta_trainable_parameters() for path in live.values()]
        groups += [upper.trainable_parameters() for upper in uppers]
        with level.kernels():
            grads = torch.autograd.grad(loss, [x for group in groups for x in group], **options)
        if not counts:
            return
        if not self._looked:
            leading = len(grads) - sum(len(upper.trainable_parameters()) for upper in uppers)
            self._reached = bool(self._reached) or any(g is not None for g in grads[:leading])
        parts = iter(gradients.cut(grads, groups))

        direct = next(parts)
        if record is not None and leaves is not None:
            record.graph = (leaves, gradients.unscaled(direct, leaves, inverse))
            direct = [None if g is None else g.detach() for g in direct]
        level.set_grads(params, direct)
        for i, path in live.items():
            like = path[1].meta_trainable_parameters()
            vector = gradients.unscaled(next(parts), like, inverse)
            self._vectors[i] = gradients.added(self._vectors.get(i), vector)
        for upper in uppers:
            assert record is not None
            found = gradients.unscaled(next(parts), upper.trainable_parameters(), inverse)
            record.add_upper_gradient(upper.name, [g.detach() for g in found])

    def complete(self, level: _Level) -> None:
        """Average what was added over the ranks; then add the implicit term along each path."""
        params, world = level.trainable_parameters(), level.world
        if world.world_size > 1:
            whole = gradients.mean_where_any([p.grad for p in params], params, world)
            for p, grad in zip(params, whole, strict=True):
                p.grad = grad
                self._reached = self._reached or grad is not None  # by another process's batch
        self._look(level)
        vectors, self._vectors = self._vectors, {}
        for i, path in enumerate(level.paths):
            if graph.stops_gradient(path):
                continue
            vector = gradients.mean_over_ranks(
                vectors.get(i, ()), path[1].meta_trainable_parameters(), world
            )
            for lower, upper in itertools.pairwise(path[1:]):
                vector = jvp_fn_mapping[lower.config.type](vector, lower, upper, False)
            # A copy: p.grad is changed in place, and an estimator may go on with what it gave
            # (penalty's term serves all T2 upper steps).
            level.set_grads(params, [level.scaled(g).clone() for g in vector])
        record = level.recorder.current
        if record is not None and level.recorder.needs.upper_gradient:
            for upper in level.parents:
                record.upper_gradient[upper.name] = gradients.mean_over_ranks(
                    record.upper_gradient.get(upper.name, ()), upper.trainable_parameters(), world
                )

    def _look(self, level: _Level) -> None:
        """Say once, at the first step, that a level stays as it is for want of any gradient."""
        if self._looked or self._reached is None:
            return
        self._looked = True
        if self._reached or level.world.rank:
            return
        live = [path for path in level.paths if not graph.stops_gradient(path)]
        log.warning(
            "problem %r got no gradient at its first step, and stays as it is: its loss depends "
            "neither on its own parameters nor on those of a problem by which a path of the "
            "dependencies with a hypergradient comes back to it (%s)",
            level.name,
            listed(dict.fromkeys(path[1].name for path in live)),
        )
