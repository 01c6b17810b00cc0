"""Gates: one learnable number for every rank-one component of every LoRA layer.

A LoRA layer adds ``scale * B A`` to its frozen weight. With gates it adds
``scale * B diag(g) A = scale * sum_j g_j b_j a_j``: BiLoRA's P Lambda Q, AutoLoRA's sum of
alpha_j u_j v_j, SaLoRA's B G A. PEFT keeps doing all the work; its ``lora_A`` weight simply reads
as ``g[:, None] * A`` through a torch parametrization.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bilevel.errors import UserError
from bilevel.lowrank.gated_forward import GatedForward, GateWeight, chain_of, install, uninstall
from bilevel.lowrank.layers import down_and_up, lora_layers

__all__ = [
    "KINDS",
    "Factors",
    "GatedLayer",
    "Gates",
    "attach_gates",
    "fold_gates",
    "gated_layers",
]

KINDS = ("softmax", "sigmoid", "real", "hard_concrete")

# Points of the quadrature in Gates.expected; its error is below 1e-5 for the default settings.
POINTS = 256


class Gates(nn.Module):
    """The gates of n LoRA layers with k components each, from one parameter ``logits`` (n, k).

    names: the layers' names (see ``lora_layers``), one a row. k: the rank of every layer.
    kind: how the gate values come from the logits, row by row

    - ``softmax``: g = softmax(v); positive, each row sums to 1 (AutoLoRA; BiLoRA's default)
    - ``sigmoid``: g = sigmoid(v) (BiLoRA's approximately binary values)
    - ``real``: g = v
    - ``hard_concrete``: g = clip(sigmoid((log(u/(1-u)) + v) / tau) (zeta - gamma) + gamma, 0, 1)
      with u ~ U(0, 1), v = log theta (SaLoRA). Sampled once per training forward; everywhere else
      the noise-free clip(sigmoid(v) (zeta - gamma) + gamma, 0, 1), which can be exactly 0 or 1.

    init: the logits' first value. None takes 0, and 1 for ``real``: a real gate of 0 beside LoRA's
    B = 0 has a zero gradient in all three factors and would never move.

    A method may use its gates for a part of the training only. ``phase`` says where it is:

    - ``learning`` (the start): values from the logits, as above
    - ``open``: every value is exactly 1, plain LoRA, and costs nothing (:meth:`open`)
    - ``fixed``: the values are constants (:meth:`fix`), whatever the logits are

    The logits are fp32 unless the module is cast. This module must not be registered on the model:
    its logits belong to the upper level, the model's factors to the lower one.

    Raises UserError for an unknown kind, no or repeated names, k < 1, or hard-concrete bounds
    without gamma < 0 < 1 < zeta and tau > 0.
    """

    def __init__(
        self,
        names: Sequence[str],
        k: int,
        kind: str = "softmax",
        init: float | None = None,
        *,
        tau: float = 1.0,
        gamma: float = -0.1,
        zeta: float = 1.1,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise UserError(f"unknown kind of gate {kind!r}; allowed: {', '.join(KINDS)}")
        if not names or len(set(names)) != len(names):
            raise UserError("gates need at least one layer name, and no name twice")
        if k < 1:
            raise UserError(f"gates need at least one component a layer, not k = {k}")
        if not (gamma < 0 and zeta > 1 and tau > 0):
            raise UserError(
                "hard-concrete gates need gamma < 0, zeta > 1 and tau > 0, "
                f"not gamma = {gamma}, zeta = {zeta}, tau = {tau}"
            )
        self.names = list(names)
        self.k = k
        self.kind = kind
        self.tau, self.gamma, self.zeta = tau, gamma, zeta
        if init is None:
            init = 1.0 if kind == "real" else 0.0
        self.logits = nn.Parameter(torch.full((len(self.names), k), init, dtype=torch.float32))
        self.phase = "learning"
        self.fixed: Tensor | None
        self.register_buffer("fixed", None, persistent=False)
        self._rows = {name: row for row, name in enumerate(self.names)}
        self._in_use: Tensor | None = None  # the values of the forward under way

    def values(self) -> Tensor:
        """Return the gate values (n, k), differentiable in ``logits``.

        While a gated model is in its forward these are the values that forward uses; otherwise
        they are computed afresh, without noise.
        """
        return self.compute() if self._in_use is None else self._in_use

    def value(self, name: str) -> Tensor:
        """Return the gate values (k,) of one layer. Raises UserError for an unknown name."""
        return self.values()[self.index(name)]

    def index(self, name: str) -> int:
        """Return the row of one layer. Raises UserError for an unknown name."""
        if name not in self._rows:
            raise UserError(f"no gates for a layer named {name!r}; the first is {self.names[0]!r}")
        return self._rows[name]

    def open(self) -> None:
        """Hold every gate at exactly 1."""
        self.phase = "open"

    def learn(self) -> None:
        """Let the values follow the logits."""
        self.phase = "learning"

    def fix(self, values: Tensor) -> None:
        """Hold the gates at ``values`` (n, k)."""
        self.fixed = values.detach().to(self.logits, copy=True)
        self.phase = "fixed"

    def compute(self, sample: bool = False) -> Tensor:
        """Return the gate values (n, k); ``sample`` draws the noise of hard-concrete gates."""
        v: Tensor = self.logits
        if self.phase == "open":
            return torch.ones_like(v)
        if self.phase == "fixed":
            assert self.fixed is not None
            return self.fixed
        if self.kind == "softmax":
            return torch.softmax(v, dim=-1)
        if self.kind == "sigmoid":
            return torch.sigmoid(v)
        if self.kind == "real":
            return v.view_as(v)  # not the parameter itself, which a module would register
        if sample:
            # Uniform noise can be exactly 0, whose logit is infinite.
            tiny = torch.finfo(v.dtype).eps
            v = (torch.rand_like(v).clamp(tiny, 1 - tiny).logit() + v) / self.tau
        return (torch.sigmoid(v) * (self.zeta - self.gamma) + self.gamma).clamp(0.0, 1.0)

    @torch.no_grad()
    def expected(self) -> Tensor:
        """Return the mean (n, k) of hard-concrete gates over their noise, from the logits.

        E[g] = integral over t in (0, 1) of P(g > t),
        P(g > t) = sigmoid(v - tau logit((t - gamma) / (zeta - gamma))),

        by the midpoint rule. It lies between 0 and 1 and is never either.
        """
        t = (torch.arange(POINTS, dtype=torch.float64, device=self.logits.device) + 0.5) / POINTS
        bounds = self.tau * ((t - self.gamma) / (self.zeta - self.gamma)).logit()
        above = torch.sigmoid(self.logits.double().unsqueeze(-1) - bounds)
        return above.mean(-1).to(self.logits)

    def keep_logit(self) -> float:
        """Return the logit above which a hard-concrete gate's noise-free value is positive.

        sigmoid(v) (zeta - gamma) + gamma > 0, that is v > log(-gamma / zeta); -2.398 by default.
        """
        return math.log(-self.gamma / self.zeta)

    def extra_repr(self) -> str:
        """Name the kind and the shape in the module's printed form."""
        return f"kind={self.kind}, layers={len(self.names)}, k={self.k}"


@dataclass(frozen=True)
class GatedLayer:
    """One LoRA layer with gates: the ungated A (k x in), B (out x k), and its row of ``gates``."""

    A: nn.Parameter
    B: nn.Parameter
    gates: Gates
    index: int


class Factors:
    """The factors of all gated layers, without the gates: ``pairs()`` gives (B, A) of each.

    Finds the layers once and reads the parameters registered at each call.

    Raises UserError when the model has no such adapter.
    """

    def __init__(self, model: PeftModel, adapter: str = "default") -> None:
        self._maps = [down_and_up(layer, adapter) for layer in lora_layers(model, adapter).values()]

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """(B, A), (out x k) and (k x in), of every layer."""
        return [(up.weight, chain_of(down).original) for down, up in self._maps]


def attach_gates(model: PeftModel, gates: Gates, adapter: str = "default") -> None:
    """Make every LoRA layer of ``adapter`` read its A as ``gate[:, None] * A``.

    The parameter A stays the same object (now under ``parametrizations.weight.original``), so
    optimisers made earlier stay valid. The gates appear neither among the model's parameters nor in
    its state dict. A forward computes all gate values once, from the parameters registered at that
    time, so they may be swapped for others between forwards.

    Under (non-reentrant) gradient checkpointing the recomputation reuses the values of the latest
    forward that recorded a graph; back-propagate each forward before starting the next one.

    Raises UserError when the names or ranks of ``gates`` and the model's LoRA layers differ, or the
    adapter already has gates.
    """
    layers = lora_layers(model, adapter)
    strange = sorted(set(layers) ^ set(gates.names))
    if strange:
        where = "the gates" if strange[0] in layers else "the model's LoRA layers"
        raise UserError(f"{strange[0]!r} is missing from {where}; both must name the same layers")
    for name, layer in layers.items():
        down, _ = down_and_up(layer, adapter)
        if parametrize.is_parametrized(down, "weight"):
            raise UserError(f"{name} already has gates; fold them before attaching others")
        if down.weight.shape[0] != gates.k:
            raise UserError(f"{name} has rank {down.weight.shape[0]}, but its gates k = {gates.k}")
    downs = [down_and_up(layers[name], adapter)[0] for name in gates.names]
    forward = GatedForward(gates, downs)
    for row, down in enumerate(downs):
        install(down, forward, row)
    # PeftModel.forward calls the tuner, generate() calls the inner model: both must be covered.
    forward.watch(model.base_model, model.get_base_model())


def fold_gates(model: PeftModel, adapter: str = "default") -> None:
    """Multiply the gates' noise-free values into A and remove every trace of them.

    A keeps its identity as a parameter. Raises UserError when no gates are attached.
    """
    forwards = set()
    for layer in lora_layers(model, adapter).values():
        forwards.add(uninstall(layer.lora_A[adapter]))
    if None in forwards:
        raise UserError(f"adapter {adapter!r} has no gates to fold")
    for forward in forwards:
        if forward is not None:
            forward.unwatch()


def gated_layers(model: PeftModel, adapter: str = "default") -> dict[str, GatedLayer]:
    """Return the gated layers by name, with the parameters registered right now.

    Layers without gates are left out.
    """
    found = {}
    for name, layer in lora_layers(model, adapter).items():
        down, up = down_and_up(layer, adapter)
        if parametrize.is_parametrized(down, "weight"):
            gate = chain_of(down)[0]
            if isinstance(gate, GateWeight):
                A = cast(nn.Parameter, chain_of(down).original)
                B = cast(nn.Parameter, up.weight)
                found[name] = GatedLayer(A, B, gate.forward_pass.gates, gate.row)
    return found
