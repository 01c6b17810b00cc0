"""Differentiate a replayed lower loss, once and twice, at given V and E."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bilevel.gradients import added, mean_over_ranks
from bilevel.hypergradient.shared import checkpoints_activations

if TYPE_CHECKING:
    from bilevel.micro_batches import MicroBatch
    from bilevel.protocols import LowerLevel, UpperLevel
    from bilevel.replay.random_state import RandomState

__all__ = ["ReplayedLoss", "dot", "jacobian_vector", "norm", "vector_jacobian"]


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Inner product of two lists of tensors, a scalar tensor."""
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


def norm(a: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of a list of tensors, a scalar tensor."""
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(x) for x in a]))


class ReplayedLoss:
    """L1 of recorded micro-batches as a function of V and E, randomness replayed.

    Args:
        lower: the problem with the loss.
        upper: the problem that owns E.
        batches: micro-batches of one step, each with the random state to replay.
        upper_values: E at which to evaluate; default: E as it is.
    """

    def __init__(
        self,
        lower: LowerLevel,
        upper: UpperLevel,
        batches: Sequence[tuple[MicroBatch, RandomState]],
        upper_values: Sequence[Tensor] | None = None,
    ) -> None:
        self._lower = lower
        self._lower_slots = lower.slots
        self._upper_slots = upper.slots
        self._upper_name = upper.name
        # What the other upper levels were when ``lower`` took its steps.
        seen = lower.recorded.upper_values
        self._around = [
            (other.slots, seen[other.name])
            for other in lower.ancestors
            if other is not upper and other.name in seen
        ]
        # A pass that gathers a base which is shared out is one of all processes.
        together = lower.world.shards_base
        self._batches = [(micro, state) for micro, state in batches if micro.counts or together]
        values = upper.trainable_parameters() if upper_values is None else upper_values
        self.upper_values = [value.detach().requires_grad_() for value in values]

    @contextmanager
    def _holding(self, weights: Sequence[Tensor]) -> Iterator[None]:
        """Let the modules hold V = ``weights`` and E, and use the lower problem's kernels.

        Not only for the forward pass: with gradient checkpointing a backward pass is one, too.
        """
        with ExitStack() as stack:
            stack.enter_context(self._lower_slots.holding(weights))
            stack.enter_context(self._upper_slots.holding(self.upper_values))
            for slots, values in self._around:
                stack.enter_context(slots.holding(values))
            stack.enter_context(self._lower.kernels())
            yield

    def _evaluate(self, micro: MicroBatch, state: RandomState) -> Tensor:
        """A micro-batch's part of L1, inside :meth:`_holding`."""
        with state.replayed():
            loss = self._lower.objective(micro.batch)
        self._lower_slots.verify(loss, self._lower.name)
        self._upper_slots.verify(loss, self._upper_name)
        return micro.weighted(loss)

    def _jacobian(
        self,
        grads: Sequence[Tensor],
        inputs: Sequence[Tensor],
        vector: Sequence[Tensor],
        retain_graph: bool = False,
    ) -> list[Tensor]:
        scale = self._lower.inverse_scale
        return vector_jacobian(grads, inputs, vector, retain_graph, scale)

    def gradient(
        self, weights: Sequence[Tensor], wrt: str = "both"
    ) -> tuple[list[Tensor], list[Tensor]]:
        """(dL1/dV, dL1/dE) at V = ``weights``; ``wrt="upper"`` leaves the first list empty."""
        leaves = [w.detach().requires_grad_() for w in weights]
        inputs = (leaves if wrt == "both" else []) + self.upper_values
        total: list[Tensor] = []
        for batch in self._batches:
            with self._holding(leaves):
                grads = self._lower.own_gradient(self._evaluate(*batch), inputs)
            total = added(total or None, grads) if batch[0].counts else total
        total = mean_over_ranks(total, inputs, self._lower.world)
        split = len(inputs) - len(self.upper_values)
        return total[:split], total[split:]

    def minus_mixed_product(
        self,
        weights: Sequence[Tensor],
        vector: Sequence[Tensor],
        epsilon: float,
        base: Sequence[Tensor] | None = None,
    ) -> list[Tensor]:
        """- d2L1/dEdV v by a difference of step ``epsilon / |v|``; forward from ``base``.

        Args:
            weights: V.
            vector: v.
            epsilon: length of the perturbation.
            base: dL1/dE at V, where it is known; central without.
        """
        step = epsilon / (norm(vector) + torch.finfo(torch.float32).tiny)
        _, plus = self.gradient(
            [w + step * v for w, v in zip(weights, vector, strict=True)], "upper"
        )
        if base is not None:
            return [(b - p) / step for p, b in zip(plus, base, strict=True)]
        _, minus = self.gradient(
            [w - step * v for w, v in zip(weights, vector, strict=True)], "upper"
        )
        return [(m - p) / (2 * step) for p, m in zip(plus, minus, strict=True)]

    def second_order(
        self,
        weights: Sequence[Tensor],
        direction: Sequence[Tensor],
        wrt: str = "both",
        product: str = "double_backward",
        epsilon: float = 1e-2,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """(d2L1/dV2 u, d2L1/dEdV u) for u = ``direction``, at V = ``weights``.

        By double backward, or by a central difference of step ``epsilon / |u|``.
        """
        if product == "central_difference":
            step = epsilon / (norm(direction) + torch.finfo(torch.float32).tiny)
            plus, minus = (
                self.gradient([w + s * u for w, u in zip(weights, direction, strict=True)], wrt)
                for s in (step, -step)
            )
            return (
                [(p - m) / (2 * step) for p, m in zip(plus[0], minus[0], strict=True)],
                [(p - m) / (2 * step) for p, m in zip(plus[1], minus[1], strict=True)],
            )
        leaves = [w.detach().requires_grad_() for w in weights]
        inputs = (leaves if wrt == "both" else []) + self.upper_values
        total = [torch.zeros_like(x) for x in inputs]
        for batch in self._batches:
            with self._holding(leaves):
                grads = self._lower.own_gradient(self._evaluate(*batch), leaves, create_graph=True)
                products = self._jacobian(grads, inputs, direction)
            total = added(total, products)
        total = mean_over_ranks(total, inputs, self._lower.world)
        split = len(inputs) - len(self.upper_values)
        return total[:split], total[split:]

    def gradient_tangents(
        self,
        weights: Sequence[Tensor],
        directions: Sequence[tuple[Sequence[Tensor], Sequence[Tensor]]],
        product: str = "double_backward",
        epsilon: float = 1e-2,
    ) -> list[list[Tensor]]:
        """d2L1/dV2 dV + d2L1/dVdE dE at V = ``weights``, for each direction (dV, dE).

        By one double backward a direction, all from one graph, or by a central difference of step
        ``epsilon / |(dV, dE)|``.
        """
        if product == "central_difference":
            return [self._difference_along(weights, dV, dE, epsilon) for dV, dE in directions]
        leaves = [w.detach().requires_grad_() for w in weights]
        inputs = [*leaves, *self.upper_values]
        found: list[list[Tensor]] = [[] for _ in directions]
        for batch in self._batches:
            with self._holding(leaves):
                grads = self._lower.own_gradient(self._evaluate(*batch), inputs, create_graph=True)
                for i, (dV, dE) in enumerate(directions):
                    # Second derivatives commute: of <dL1/d(V, E), (dV, dE)> the gradient in V.
                    along = self._jacobian(grads, leaves, [*dV, *dE], retain_graph=True)
                    found[i] = added(found[i] or None, along)
        return [mean_over_ranks(along, leaves, self._lower.world) for along in found]

    def _difference_along(
        self, weights: Sequence[Tensor], dV: Sequence[Tensor], dE: Sequence[Tensor], epsilon: float
    ) -> list[Tensor]:
        step = epsilon / (norm([*dV, *dE]) + torch.finfo(torch.float32).tiny)
        sides = []
        for s in (step, -step):
            there = copy.copy(self)
            moved = [e.detach() + s * d for e, d in zip(self.upper_values, dE, strict=True)]
            there.upper_values = [e.requires_grad_() for e in moved]
            sides.append(there.gradient([w + s * d for w, d in zip(weights, dV, strict=True)])[0])
        return [(p - m) / (2 * step) for p, m in zip(*sides, strict=True)]

    def hessian_operator(
        self, weights: Sequence[Tensor], product: str, epsilon: float = 1e-2
    ) -> tuple[Callable[[Sequence[Tensor]], list[Tensor]], Callable[..., list[Tensor]]]:
        """(u -> d2L1/dV2 u, u -> d2L1/dEdV u) at V = ``weights``, sharing one graph."""
        if product == "central_difference":
            return (
                lambda u: self.second_order(weights, u, "both", product, epsilon)[0],
                lambda u: self.second_order(weights, u, "upper", product, epsilon)[1],
            )
        leaves = [w.detach().requires_grad_() for w in weights]

        def graph(micro: MicroBatch, state: RandomState) -> list[Tensor]:
            with self._holding(leaves):
                loss = self._evaluate(micro, state)
                return self._lower.own_gradient(loss, leaves, create_graph=True)

        # A checkpointed layer is computed again in each backward pass, with the gates that the last
        # forward pass has drawn: a graph is then used up before the next micro-batch has one.
        keeps = len(self._batches) < 2 or not checkpoints_activations(self._lower.module)
        graphs = [graph(*batch) for batch in self._batches] if keeps else None

        def multiply(u: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
            total = [torch.zeros_like(x) for x in inputs]
            for i, batch in enumerate(self._batches):
                grads = graph(*batch) if graphs is None else graphs[i]
                with self._holding(leaves):
                    part = self._jacobian(grads, inputs, u, retain_graph=graphs is not None)
                total = added(total, part)
            return mean_over_ranks(total, inputs, self._lower.world)

        return lambda u: multiply(u, leaves), lambda u: multiply(u, self.upper_values)


def vector_jacobian(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    vector: Sequence[Tensor],
    retain_graph: bool = False,
    inverse_scale: Tensor | None = None,
) -> list[Tensor]:
    """(d outputs / d inputs)^T vector, zeros where there is no dependence.

    Args:
        outputs, inputs: of a graph that is there.
        vector: as long as ``outputs``.
        retain_graph: the graph is needed again.
        inverse_scale: of the level whose gradients are the outputs, where a scaler has multiplied
            its loss (fp16). The graph divides by that factor first, which leaves little of a vector
            in fp16, and the products are multiplied by it in the end, which may be too much:
            half of the factor's bits are taken at either side.
    """
    if inverse_scale is not None:
        up = inverse_scale.rsqrt()
        found = vector_jacobian(outputs, inputs, [v * up for v in vector], retain_graph)
        return [part / up for part in found]
    live = [(o, v) for o, v in zip(outputs, vector, strict=True) if o.requires_grad]
    if not live:
        return [torch.zeros_like(x) for x in inputs]
    grads = torch.autograd.grad(
        [o for o, _ in live],
        inputs,
        grad_outputs=[v.to(o.dtype) for o, v in live],
        retain_graph=retain_graph,
        allow_unused=True,
    )
    return [torch.zeros_like(x) if g is None else g for g, x in zip(grads, inputs, strict=True)]


def jacobian_vector(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], directions: Sequence[Sequence[Tensor]]
) -> list[list[Tensor]]:
    """(d outputs / d inputs) direction for each direction, of one graph and by reverse mode alone.

    J^T u is linear in u, so J t is the derivative by u of <J^T u, t>, whatever u is.
    """
    dummies = [torch.zeros_like(out, requires_grad=True) for out in outputs]
    adjoints = torch.autograd.grad(
        *(outputs, inputs, dummies), create_graph=True, allow_unused=True, materialize_grads=True
    )
    live = [i for i, adjoint in enumerate(adjoints) if adjoint.requires_grad]
    if not live:
        return [[torch.zeros_like(out) for out in outputs] for _ in directions]
    return [
        list(
            torch.autograd.grad(
                [adjoints[i] for i in live],
                dummies,
                [direction[i] for i in live],
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
        )
        for direction in directions
    ]
