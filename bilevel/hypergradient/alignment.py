r"""Closed form of the mixed derivative's block-diagonal part for gated low-rank layers.

Only the product P_i = g_i b_i a_i of a gate g_i, row a_i of A and column b_i of B enters the
network, so dL1/dg_i = <dL1/dP_i, b_i a_i>. Differentiating the factor b_i a_i (and leaving out the
dependence of dL1/dP_i on V, the second-order part) gives, with no further pass,

    - (d2L1/dg dV v)_i  ~  - ( <dL1/dA_i, v_Ai> + <dL1/dB_i, v_Bi> ) / g_i,

from the lower step's own gradient; the gate's map chains it to the selection variables. It is the
cheapest estimator and the crudest: on MiniLM, SST-2, its cosine to the exact term of T1 AdamW
steps was 0.26, -0.14, 0.53, 0.33 for T1 = 1, 4, 16, 32 (docs/hypergradients.md), and its length is
not the exact one's at all. So it is scaled: every ``calibrate_every`` upper steps the exact term of
the lower steps (``unrolled``) is computed too, and scale = <exact, closed form> / |closed form|^2,
which may be negative, is used until the next time. With ``preconditioned``, v is first taken
through the last optimiser step (D v of ``sama``): better where the optimiser is young, worse where
it is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bilevel.errors import UserError
from bilevel.hypergradient.base import Hypergradient, register
from bilevel.hypergradient.shared import step_through
from bilevel.replay.recording import Needs
from bilevel.settings import Natural

if TYPE_CHECKING:
    from torch import Tensor

    from bilevel.lowrank.attach import GatedLayer
    from bilevel.lowrank.gates import Gates
    from bilevel.protocols import LowerLevel, UpperLevel
    from bilevel.replay.recording import StepRecord

__all__ = ["Alignment"]


@register
@dataclass(frozen=True)
class Alignment(Hypergradient):
    """Closed form of the module's docstring, scaled."""

    name: ClassVar[str] = "alignment"
    needs_vary: ClassVar[bool] = True
    calibrate_every: Natural = 50
    """Upper steps between two calibrations against ``unrolled``; 0 for never."""
    scale: float = 1.0
    """Factor in use until the first calibration, and always without one."""
    preconditioned: bool = False
    """Use D v, D = d update / d gradient of the last step, instead of v."""

    def _calibrates(self, call: int) -> bool:
        return bool(self.calibrate_every) and call % self.calibrate_every == 0

    @property
    def _exact(self) -> Hypergradient:
        from bilevel.hypergradient.unrolled import Unrolled

        return Unrolled(keep_graph=False)

    def needs(self, lower: LowerLevel) -> Needs:
        """The last step's gradient; for T1 steps that end in a calibration, all of them."""
        done = lower.estimator_state.get("alignment_calls", 0)
        coming = max(p.config.steps for p in lower.parents)
        if any(self._calibrates(done + i) for i in range(coming)):
            return self._exact.needs(lower)
        return Needs(depth=1, optimizer=self.preconditioned)

    def prepare(self, lower: LowerLevel) -> None:
        """Refuse modules without gated layers.

        Raises:
            UserError: the module is no PEFT model with gates, or the gates draw noise.
        """
        from bilevel.hypergradient.optimizer_state import check_supported

        layers = _layers(lower)
        if not layers:
            raise UserError(
                f"hypergradient alignment needs gated LoRA layers in problem {lower.name!r}, and "
                "there are none; use hypergradient=finite_difference"
            )
        if any(layer.gates.kind.random for layer in layers.values()):
            raise UserError(
                "hypergradient alignment divides by the gate values, which hard-concrete gates "
                "draw at random and may be 0; use hypergradient=finite_difference"
            )
        if self.preconditioned:
            check_supported(lower.optimizer)
        if self.calibrate_every:
            self._exact.prepare(lower)

    def implicit_term(
        self, vector: Sequence[Tensor], lower: LowerLevel, upper: UpperLevel
    ) -> list[Tensor]:
        """See the module's docstring."""
        import torch

        from bilevel.hypergradient.derivatives import dot

        record = lower.recorded.last
        if not record.applied:  # skipped (fp16): no step, and its gradient is not finite
            return [torch.zeros_like(p) for p in upper.trainable_parameters()]
        values = lower.recorded.upper_values[upper.name]
        direction = vector
        if self.preconditioned:
            _, a_grads, _ = step_through(record, vector, [{} for _ in vector])
            direction = [-a for a in a_grads]  # the step is minus the update
        closed = self.closed_form(direction, lower, upper, record, values)
        memory = lower.estimator_state
        calls = memory.get("alignment_calls", 0)
        if self._calibrates(calls):
            exact = self._exact.implicit_term(vector, lower, upper)
            tiny = torch.finfo(closed[0].dtype).tiny
            best = dot(exact, closed) / (dot(closed, closed) + tiny)
            # The exact term's own passes may overflow in fp16: the scale so far stays then.
            so_far = memory.get("alignment_scale", torch.full_like(best, self.scale)).to(best)
            memory["alignment_scale"] = torch.where(torch.isfinite(best), best, so_far)
        memory["alignment_calls"] = calls + 1
        scale = memory.get("alignment_scale", self.scale)
        return [scale * g for g in closed]

    def closed_form(
        self,
        vector: Sequence[Tensor],
        lower: LowerLevel,
        upper: UpperLevel,
        record: StepRecord,
        upper_values: Sequence[Tensor],
    ) -> list[Tensor]:
        """The unscaled estimate, one tensor per parameter of ``upper``."""
        import torch

        index = {id(p): i for i, p in enumerate(lower.trainable_parameters())}
        by_gates: dict[int, tuple[Gates, list[GatedLayer]]] = {}
        for layer in _layers(lower).values():
            by_gates.setdefault(id(layer.gates), (layer.gates, []))[1].append(layer)

        leaves = [value.detach().requires_grad_() for value in upper_values]
        total = [torch.zeros_like(value) for value in leaves]
        for gates, layers in by_gates.values():
            with upper.slots.holding(leaves):
                gate_values = gates.values().unbind(0)  # differentiable in the upper variables
            rows = []
            for layer in layers:
                A, B = index[id(layer.A)], index[id(layer.B)]
                gA, gB = record.gradient[A], record.gradient[B]
                row = torch.zeros_like(gate_values[0])
                if gA is not None:
                    row = row + (gA * vector[A]).sum(dim=1)
                if gB is not None:
                    row = row + (gB * vector[B]).sum(dim=0)
                rows.append(row)
            selected = torch.stack([gate_values[layer.index] for layer in layers])
            wanted = -torch.stack(rows) / _away_from_zero(selected.detach())
            grads = torch.autograd.grad(selected, leaves, wanted, allow_unused=True)
            total = [t if g is None else t + g for t, g in zip(total, grads, strict=True)]
        return total


def _away_from_zero(gates: Tensor) -> Tensor:
    """Gates as divisors: below 1e-6 the quotient is 0/0, since dL1/dA and v_B vanish with g."""
    return gates.masked_fill(gates.abs() < 1e-6, float("inf"))


def _layers(lower: LowerLevel) -> dict[str, GatedLayer]:
    """The gated layers inside a problem's module."""
    from peft import PeftModel

    from bilevel.lowrank.attach import gated_layers

    models = (module for module in lower.module.modules() if isinstance(module, PeftModel))
    model: PeftModel | None = next(models, None)
    return {} if model is None else gated_layers(model)
