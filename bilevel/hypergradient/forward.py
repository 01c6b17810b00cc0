r"""Forward mode through the lower optimiser's steps as they are taken: exact, and nothing is kept.

With V_t, s_t the weights and the optimiser's state after t steps and g_t = dL1/dV(V_t, E),

    (V_{t+1}, s_{t+1}) = Phi_t(V_t, g_t, s_t),        t = 0 .. T1-1,

every direction r in the space of E has tangents (dV_t, ds_t) = d(V_t, s_t)/dE r, which start from 0
and go along with the training steps,

    dg_t  =  d2L1/dV2 dV_t + d2L1/dVdE r,        (dV_{t+1}, ds_{t+1})  =  Phi_t' (dV_t, dg_t, ds_t),

one Hessian-vector product a step and direction. Where upper variables decide rates or decays h_t(E)
of the optimiser (:mod:`bilevel.step_settings`), Phi_t' takes (dh_t/dE) r too. After T1 steps

    <v, dV_T1>  =  <(dV/dE)^T v, r>

(Franceschi, Donini, Frasconi, Pontil: Forward and reverse gradient-based hyperparameter
optimization, ICML 2017, section 3.2). With r the unit vectors that is (dV/dE)^T v itself, the same
as ``unrolled``; no step is recorded, so memory does not grow with T1, but with the directions.

For more variables there are K random directions r_k of independent signs +-1,

    (dV/dE)^T v  ~  1/K sum_k <v, dV^(k)> r_k

(Shen, Wang, Yang, Li, Wang, Zhang, Scarlett, Zhu, Kawaguchi: Memory-efficient gradient unrolling
for large-scale bi-level optimization, NeurIPS 2024). It is unbiased; of N variables, its expected
squared error is (N - 1)/K times the squared length of what is estimated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bilevel.errors import UserError
from bilevel.hypergradient.base import register
from bilevel.hypergradient.second_order import SecondOrder
from bilevel.hypergradient.shared import (
    check_double_backward,
    check_parent,
    check_plain_steps,
    resolve_product,
    step_size,
)
from bilevel.replay.recording import Needs, StepRecord
from bilevel.settings import Count

if TYPE_CHECKING:
    from torch import Tensor

    from bilevel.protocols import LowerLevel, UpperLevel

__all__ = ["Forward"]

MOST_EXACT = 16  # variables; beyond, unrolled is the cheaper way to the same number


@dataclass(frozen=True)
class _Tangent:
    """A direction in the space of E, and derivatives of V and the optimiser's state along it."""

    direction: list[Tensor]
    weights: list[Tensor]
    state: list[dict[str, Tensor]]


@register
@dataclass(frozen=True)
class Forward(SecondOrder):
    """Tangents of V and of the optimiser's state, carried along with the T1 lower steps."""

    name: ClassVar[str] = "forward"
    knows_step_settings: ClassVar[bool] = True
    directions: Count | None = None
    """Random directions; null for every upper variable by itself, exactly, of which there may be 16
    at the most."""

    @property
    def most_variables(self) -> int | None:
        """Any number by random directions, a few by themselves."""
        return MOST_EXACT if self.directions is None else None

    def check_variables(self, variables: int, upper: str) -> None:
        """A product for each variable and step is the dearer way from some number on.

        Raises:
            UserError: there are more.
        """
        most = self.most_variables
        if most is not None and variables > most:
            raise UserError(
                "hypergradient forward takes a Hessian-vector product for each variable and "
                f"lower step, and problem {upper!r} has {variables} variables, more than {most}: "
                "give hypergradient.directions=K for an unbiased estimate from K random "
                "directions, or use hypergradient=unrolled"
            )

    def needs(self, lower: LowerLevel) -> Needs:
        """The step under way, with its optimiser."""
        twice = self.differentiates_twice(lower)
        return Needs(depth=1, optimizer=True, double_backward=twice, carries=True)

    def prepare(self, lower: LowerLevel) -> None:
        """Refuse what ``unrolled`` refuses, and too many variables.

        Raises:
            UserError: see above.
        """
        check_plain_steps(lower, self.name)
        check_double_backward(lower, self.product)
        for upper in lower.parents:
            self.check_variables(sum(p.numel() for p in upper.trainable_parameters()), upper.name)

    def at_step(self, lower: LowerLevel, step: StepRecord) -> None:
        """Take all tangents through the step."""
        for upper in lower.parents:
            carried = lower.recorded.carried.get(upper.name)
            tangents = list(self._start(lower, upper)) if carried is None else carried
            lower.recorded.carried[upper.name] = self._through(step, tangents, lower, upper)

    def _start(self, lower: LowerLevel, upper: UpperLevel) -> Iterator[_Tangent]:
        import torch

        E, V = upper.trainable_parameters(), lower.trainable_parameters()
        directions: list[list[Tensor]] = []
        if self.directions is None:
            for j, p in enumerate(E):
                for k in range(p.numel()):
                    unit = [torch.zeros_like(q) for q in E]
                    unit[j].view(-1)[k] = 1.0
                    directions.append(unit)
        else:
            # A generator of its own, the same in every process and in a run that was resumed.
            draw = torch.Generator().manual_seed(lower.count)
            for _ in range(self.directions):
                bits = [torch.randint(2, p.shape, generator=draw) for p in E]
                signs = [2 * b - 1 for b in bits]
                # The same on every device; nobody waits for the few numbers to arrive.
                directions.append(
                    [s.to(p, non_blocking=True) for s, p in zip(signs, E, strict=True)]
                )
        for direction in directions:
            yield _Tangent(direction, [torch.zeros_like(w) for w in V], [{} for _ in V])

    def _through(
        self, step: StepRecord, tangents: list[_Tangent], lower: LowerLevel, upper: UpperLevel
    ) -> list[_Tangent]:
        import torch

        from bilevel.hypergradient.optimizer_tangents import StepTangent, step_jvp
        from bilevel.hypergradient.settings_adjoint import settings_tangents

        assert step.snapshot is not None
        gradients = lower.replayed_loss(upper, step).gradient_tangents(
            step.weights,
            [(tangent.weights, tangent.direction) for tangent in tangents],
            resolve_product(self.product, lower),
            step_size(self.epsilon, lower),
        )
        settings = settings_tangents(lower, upper, step, [t.direction for t in tangents])
        after = step_jvp(
            step.snapshot,
            step.weights,
            step.gradient,
            [
                StepTangent(t.weights, g, t.state, h)
                for t, g, h in zip(tangents, gradients, settings, strict=True)
            ],
            step.max_norm,
        )
        moved = [_Tangent(t.direction, *of) for t, of in zip(tangents, after, strict=True)]
        if lower.scaler is None:
            return moved
        # fp16: a gradient that overflowed is no step, by the same rule as the scaler's.
        found = [g for g in step.gradient if g is not None]
        taken = torch.stack([torch.isfinite(g).all() for g in found]).all()
        return [_chosen(taken, new, old) for new, old in zip(moved, tangents, strict=True)]

    def implicit_term(
        self, vector: Sequence[Tensor], lower: LowerLevel, upper: UpperLevel
    ) -> list[Tensor]:
        """See the module's docstring."""
        import torch

        from bilevel.hypergradient.derivatives import dot

        check_parent(lower, upper, self.name)
        total = [torch.zeros_like(p) for p in upper.trainable_parameters()]
        for tangent in lower.recorded.carried.get(upper.name, ()):
            slope = dot(vector, tangent.weights) / (self.directions or 1)
            total = [t + slope * r for t, r in zip(total, tangent.direction, strict=True)]
        return total


def _chosen(taken: Tensor, new: _Tangent, old: _Tangent) -> _Tangent:
    import torch

    def of(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(taken, a, b)

    weights = list(map(of, new.weights, old.weights))
    state = [
        {
            name: of(value, before.get(name, torch.zeros_like(value)))
            for name, value in after.items()
        }
        for after, before in zip(new.state, old.state, strict=True)
    ]
    return _Tangent(old.direction, weights, state)
