"""Attach gates to a PEFT model's LoRA layers, find them again, and fold them in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bilevel.errors import UserError
from bilevel.lowrank.gated_forward import GatedForward, GateWeight, chain_of, install, uninstall
from bilevel.lowrank.gates import Gates
from bilevel.lowrank.layers import down_and_up, lora_layers

__all__ = ["Factors", "GatedLayer", "attach_gates", "fold_gates", "gated_layers"]


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
    time, so they may be swapped for others between forwards. Beside factors in float64 the gates
    are put into float64 too: they would round what the rest computes.

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
    gates.to(torch.promote_types(gates.logits.dtype, downs[0].weight.dtype))
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
