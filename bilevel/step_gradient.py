"""Gather a level's gradient over the micro-batches and ranks of an optimiser step."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from betty.hypergradient import jvp_fn_mapping
from torch import Tensor, nn

from bilevel import gradients, graph
from bilevel.protocols import LowerLevel

if TYPE_CHECKING:
    from bilevel.replay.recorder import StepRecorder

__all__ = ["StepGradient"]


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
