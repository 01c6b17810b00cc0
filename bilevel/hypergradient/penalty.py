r"""Penalty method F2SA: a second copy of V that descends L1 alone, and no second derivative at all.

    dL2/dE (total)  ~  dL2/dE(w)  +  lambda [ dL1/dE(w) - dL1/dE(u) ]

where w descends L2 + lambda L1 and u descends L1 (Kwon, Kwon, Wright, Nowak: A fully first-order
method for stochastic bilevel optimization, ICML 2023). With u and w at their minima, w - u is
-H^{-1} v / lambda to first order, and the bracket's limit is -d2L1/dEdV H^{-1} v: the implicit
function theorem's term, as of ``cg``, with an error of order 1/lambda. It is not the derivative of
T1 steps, and it is right only as far as u and w have followed their minima.

w is the lower level itself, so **w is what is trained, evaluated and exported, and w learns from
D_val**: training on D_train and D_val together is what to compare it with. u is a copy of the lower
level's trainable parameters only (the adapter), with an optimiser state of its own.

A lower step on w takes the gradient (dL2/dV + lambda dL1/dV) / (1 + lambda), so that its length
does not grow with lambda (Adam does not see the factor); u takes the same optimiser's step, at the
same learning rate and clipping, on the same batch and dropout masks. dL2/dV is that of the last
upper step, held for the T1 steps after it. Both terms of the bracket come out of the backward
passes of the last lower step, at the weights before it. So a global step is 2 T1 + T2
forward-backwards, where plain alternation is T1 + T2. Before the first upper step there is no u,
and its term is 0.

With ``eta`` lambda is no constant but what each lower step needs (Liu, Ye, Wright, Stone, Liu:
BOME! Bilevel optimization made easy, NeurIPS 2022). With q(V, E) = L1(V, E) - L1(u, E), in which u
counts as a constant, and gradients in both V and E,

    lambda  =  max(eta - <grad L2, grad q> / |grad q|^2,  0),

the least for which a step along grad L2 + lambda grad q lets q fall by eta |grad q|^2 times its
length. The paper starts u anew from w at each upper step; here u goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bilevel.errors import UserError
from bilevel.hypergradient.base import Hypergradient, register
from bilevel.hypergradient.shared import check_parent, check_plain_steps
from bilevel.replay.recording import Needs, StepRecord
from bilevel.settings import Positive

if TYPE_CHECKING:
    from torch import Tensor

    from bilevel.protocols import LowerLevel, UpperLevel

__all__ = ["Penalty"]


@register
@dataclass(frozen=True)
class Penalty(Hypergradient):
    """Two copies of V, one of which feels L2, and the difference of what E does to them."""

    name: ClassVar[str] = "penalty"
    changes_steps: ClassVar[bool] = True
    multiplier: Positive = 10.0
    """lambda. Larger is nearer to the limit, and noisier: the bracket is a difference of order
    1/lambda."""
    eta: Positive | None = None
    """BOME's rule in the place of the constant lambda: the least one at each lower step by which
    L1's gap to u falls as fast as this times its squared gradient (0.5, say); null for the
    constant."""

    def needs(self, lower: LowerLevel) -> Needs:
        """The step under way with its optimiser, and dL1/dE from its backward pass."""
        return Needs(depth=1, optimizer=True, upper_gradient=True)

    def prepare(self, lower: LowerLevel) -> None:
        """Refuse steps that a copy could not follow.

        Raises:
            UserError: an optimiser or a hook that is unknown, or several upper levels.
        """
        check_plain_steps(lower, self.name)
        if len(lower.parents) != 1:
            raise UserError(
                f"hypergradient penalty puts the loss of one upper problem into the steps of "
                f"problem {lower.name!r}, which has {len(lower.parents)}; use "
                "hypergradient=finite_difference"
            )

    def at_step(self, lower: LowerLevel, step: StepRecord) -> None:
        """Take u's step, and put L2 into the gradient of w's."""
        memory = lower.estimator_state.get(self.name)
        if memory is None:
            return
        (upper,) = lower.parents
        vector = [v.to(p) for v, p in zip(memory["vector"], step.weights, strict=True)]
        lower.estimator_state[self.name], at_u = self._second_step(lower, upper, step, memory)
        at_w = step.upper_gradient[upper.name]
        bracket = [a - b for a, b in zip(at_w, at_u, strict=True)]
        factor = self._multiplier(step, vector, memory, bracket)
        lower.recorded.carried[upper.name] = [factor * b for b in bracket]
        share = factor / (1 + factor)
        for p, v in zip(lower.trainable_parameters(), vector, strict=True):
            # fp16: p.grad is that of the scaled loss.
            held = v if lower.inverse_scale is None else v / lower.inverse_scale
            pull = held / (1 + factor)
            p.grad = pull if p.grad is None else share * p.grad + pull

    def _multiplier(
        self,
        step: StepRecord,
        vector: Sequence[Tensor],
        memory: dict[str, Any],
        bracket: Sequence[Tensor],
    ) -> float | Tensor:
        """lambda of a lower step; a number on the device under BOME's rule."""
        if self.eta is None:
            return self.multiplier
        import torch

        from bilevel.hypergradient.derivatives import dot

        gaps = [
            torch.zeros_like(w) if g is None else g
            for g, w in zip(step.gradient, step.weights, strict=True)
        ]
        direct = [d.to(b) for d, b in zip(memory["direct"], bracket, strict=True)]
        # V and E may differ in dtype; their parts are numbers.
        along = dot(vector, gaps) + dot(direct, bracket)
        square = dot(gaps, gaps) + dot(bracket, bracket)
        return (self.eta - along / square.clamp(min=torch.finfo(square.dtype).tiny)).clamp(min=0.0)

    def _second_step(
        self, lower: LowerLevel, upper: UpperLevel, step: StepRecord, memory: dict[str, Any]
    ) -> tuple[dict[str, Any], list[Tensor]]:
        """The memory with u after its step, and dL1/dE(u) before it."""
        import dataclasses

        import torch

        from bilevel.hypergradient.derivatives import norm
        from bilevel.hypergradient.optimizers import functional_step

        assert step.snapshot is not None
        second = [u.to(w) for u, w in zip(memory["second"], step.weights, strict=True)]
        state = [
            {name: x.to(w.device) if isinstance(x, torch.Tensor) else x for name, x in own.items()}
            for own, w in zip(memory["optimizer"], step.weights, strict=True)
        ]
        grads, partial = lower.replayed_loss(upper, step).gradient(second)
        # An overflow (fp16) is no step of u either; no gradient of w is none of u.
        finite = torch.isfinite(norm(grads))
        used = [
            None if g is None else torch.where(finite, mine, torch.zeros_like(mine))
            for g, mine in zip(step.gradient, grads, strict=True)
        ]
        with torch.no_grad():
            moved, state = functional_step(
                dataclasses.replace(step.snapshot, state=state), second, used, step.max_norm
            )
        return {**memory, "second": moved, "optimizer": state}, partial

    def implicit_term(
        self, vector: Sequence[Tensor], lower: LowerLevel, upper: UpperLevel
    ) -> list[Tensor]:
        """lambda [dL1/dE(w) - dL1/dE(u)]; v itself is for the lower steps to come."""
        import torch

        from bilevel.hypergradient.derivatives import norm
        from bilevel.hypergradient.optimizer_state import snapshot

        check_parent(lower, upper, self.name)
        V = lower.trainable_parameters()
        memory = lower.estimator_state.get(self.name)
        if memory is None:  # u starts as w, with what w's optimiser has gathered
            memory = {
                "second": [p.detach().clone() for p in V],
                "optimizer": snapshot(lower.optimizer, V).state,
                "vector": [torch.zeros_like(p) for p in V],
            }
        finite = torch.isfinite(norm(vector))
        held = [
            torch.where(finite, v.detach(), before.to(v))
            for v, before in zip(vector, memory["vector"], strict=True)
        ]
        memory = {**memory, "vector": held}
        if self.eta is not None:
            memory["direct"] = self._direct(upper, memory)
        lower.estimator_state[self.name] = memory
        found = lower.recorded.carried.get(upper.name)
        if found is None:
            return [torch.zeros_like(p) for p in upper.trainable_parameters()]
        return list(found)

    def _direct(self, upper: UpperLevel, memory: dict[str, Any]) -> list[Tensor]:
        """dL2/dE of the upper step under way, which stands in its gradients by now."""
        import torch

        from bilevel.gradients import unscaled
        from bilevel.hypergradient.derivatives import norm

        E = upper.trainable_parameters()
        found = unscaled([p.grad for p in E], E, upper.inverse_scale)
        before = memory.get("direct", [torch.zeros_like(p) for p in E])
        finite = torch.isfinite(norm(found))
        return [
            torch.where(finite, g.detach(), b.to(g)) for g, b in zip(found, before, strict=True)
        ]
