r"""Reverse mode through the lower optimiser's steps as they were taken: the papers' dV(T1)/dE.

With V_t, s_t the weights and the optimiser's state after t steps and g_t = dL1/dV(V_t, E),

    (V_{t+1}, s_{t+1}) = Phi_t(V_t, g_t, s_t),        t = 0 .. T1-1,

start from (V-adjoint, s-adjoint) = (v, 0) and go back. A step's vector-Jacobian product turns the
adjoints after the step into adjoints a_V, a_s before it and a_g of its gradient; then

    V-adjoint  =  a_V + d2L1/dV2 a_g,          dL2/dE  +=  d2L1/dEdV a_g.

Phi is SGD, Adam or AdamW with everything in it (momentum, moments, weight decay, clipping, the
schedule's learning rate). Where upper variables decide rates or decays of it, Phi_t(.; h_t(E))
(:mod:`bilevel.step_settings`), the step has an adjoint a_h too, and dL2/dE += (dh_t/dE)^T a_h.
Each g_t is recomputed from a snapshot of the adapter with the step's
batch and dropout masks, so no graph is kept and memory does not grow with T1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from bilevel.hypergradient.base import register
from bilevel.hypergradient.second_order import SecondOrder
from bilevel.hypergradient.shared import (
    check_double_backward,
    check_parent,
    check_plain_steps,
    checkpoints_activations,
    resolve_product,
    step_back,
    step_size,
)
from bilevel.replay.recording import Needs
from bilevel.settings import Count

if TYPE_CHECKING:
    from torch import Tensor

    from bilevel.protocols import LowerLevel, UpperLevel

__all__ = ["Unrolled"]


@register
@dataclass(frozen=True)
class Unrolled(SecondOrder):
    """Exact implicit term through the last ``depth`` of the T1 lower steps."""

    name: ClassVar[str] = "unrolled"
    knows_step_settings: ClassVar[bool] = True
    depth: Count | None = None
    """How many steps to go back through; null for all."""
    keep_graph: bool = True
    """With one lower step on one batch (T1 = T2 = 1), keep that step's graph instead of recomputing
    it: faster, and more memory while the upper step is taken."""

    def _keeps_graph(self, lower: LowerLevel) -> bool:
        # The graph serves once, and holds E itself, which the first upper step changes.
        one_upper_step = len(lower.parents) == 1 and all(
            parent.config.steps == 1 for parent in lower.parents
        )
        one_lower_step = lower.config.unroll_steps == 1 and lower.gas == 1
        # Checkpointed activations would be computed again after V has changed.
        keepable = not checkpoints_activations(lower.module)
        return (
            self.keep_graph
            and one_upper_step
            and one_lower_step
            and self.differentiates_twice(lower)
            and keepable
        )

    def needs(self, lower: LowerLevel) -> Needs:
        """Weights, batches and optimiser of the last ``depth`` steps."""
        return Needs(
            depth=self.depth,
            optimizer=True,
            graph=self._keeps_graph(lower),
            double_backward=self.differentiates_twice(lower),
        )

    def prepare(self, lower: LowerLevel) -> None:
        """Refuse optimisers and kernels that cannot be differentiated."""
        check_plain_steps(lower, self.name)
        check_double_backward(lower, self.product)

    def implicit_term(
        self, vector: Sequence[Tensor], lower: LowerLevel, upper: UpperLevel
    ) -> list[Tensor]:
        """See the module's docstring."""
        import torch

        from bilevel.distributed import averaged
        from bilevel.hypergradient.derivatives import vector_jacobian
        from bilevel.hypergradient.settings_adjoint import SettingsAdjoint

        check_parent(lower, upper, self.name)
        product = resolve_product(self.product, lower)
        steps = list(lower.recorded.steps)
        if self.depth is not None:
            steps = steps[-self.depth :]

        adjoint: list[Tensor] = [v.detach() for v in vector]
        state: list[dict[str, Tensor]] = [{} for _ in adjoint]
        total = [torch.zeros_like(p) for p in upper.trainable_parameters()]
        settings = SettingsAdjoint(lower, upper)
        for age, step in enumerate(reversed(steps)):
            if not step.applied:
                continue
            adjoint, found, state, a_settings = step_back(step, adjoint, state, settings.wanted)
            a_grads = cast("list[Tensor]", found)
            settings.add(step, a_settings)
            if step.graph is not None and age == 0 and len(steps) == 1:
                E = upper.trainable_parameters()
                part = vector_jacobian(step.graph[1], E, a_grads, inverse_scale=lower.inverse_scale)
                total = averaged(part, lower.world)
                break
            oldest = age == len(steps) - 1
            hessian, mixed = lower.replayed_loss(upper, step).second_order(
                step.weights,
                a_grads,
                wrt="upper" if oldest else "both",
                product=product,
                epsilon=step_size(self.epsilon, lower),
            )
            total = [a + b for a, b in zip(total, mixed, strict=True)]
            if not oldest:
                adjoint = [a + b for a, b in zip(adjoint, hessian, strict=True)]
        if settings.wanted:
            total = [a + b for a, b in zip(total, settings.implicit_term(), strict=True)]
        return total
