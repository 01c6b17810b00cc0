"""Find the LoRA layers that PEFT made, and write ranks and scales the way PEFT reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from bilevel.errors import UserError
from bilevel.lowrank.moved_base import start_of

__all__ = [
    "component_costs",
    "down_and_up",
    "kept_factors",
    "lora_factors",
    "lora_layers",
    "lora_pattern",
    "lora_scales",
]


def lora_layers(model: PeftModel, adapter: str = "default") -> dict[str, LoraLayer]:
    """Return the linear LoRA layers (``nn.Linear`` and ``Conv1D``) of ``adapter`` by name.

    The names are the modules' full names inside the base model, for example
    ``bert.encoder.layer.0.attention.self.query``; they are the names PEFT's ``target_modules`` and
    ``rank_pattern`` understand.

    Raises UserError when the model has no such adapter, when the adapter has a layer that is not
    linear (embedding, convolution), or a layer whose update is not plain ``scale * B @ A``.
    """
    adapters = model.peft_config if isinstance(model, PeftModel) else {}
    if adapter not in adapters:
        have = ", ".join(adapters) or "none"
        raise UserError(f"the model has no adapter named {adapter!r}; it has: {have}")
    layers: dict[str, LoraLayer] = {}
    for name, module in model.get_base_model().named_modules():
        if not isinstance(module, LoraLayer):
            continue
        if adapter in module.lora_embedding_A:
            raise UserError(f"{name} is an embedding; only linear layers can carry a gated adapter")
        if adapter not in module.lora_A:
            continue
        if not isinstance(module.lora_A[adapter], nn.Linear):
            raise UserError(
                f"{name} is a {type(module.get_base_layer()).__name__}; "
                "only linear layers can carry a gated adapter"
            )
        if adapter in module.lora_variant or module.lora_bias.get(adapter, False):
            raise UserError(
                f"the update of {name} is not plain scale * B @ A; "
                "leave use_dora, lora_bias and other LoRA variants off"
            )
        layers[name] = module
    if not layers:
        raise UserError(f"adapter {adapter!r} has no LoRA layer")
    return layers


def down_and_up(layer: LoraLayer, adapter: str = "default") -> tuple[nn.Linear, nn.Linear]:
    """Return one layer's two linear maps: down (weight A, r x in), up (weight B, out x r)."""
    return cast(nn.Linear, layer.lora_A[adapter]), cast(nn.Linear, layer.lora_B[adapter])


def lora_factors(layer: LoraLayer, adapter: str = "default") -> tuple[Tensor, Tensor]:
    """Return detached copies of the effective A (r x in) and B (out x r) of one layer.

    Gates, where attached, are multiplied into A. Of a layer whose start was taken out of the base's
    weights they are those of the update of the untouched base, of rank 2r
    (:mod:`bilevel.lowrank.moved_base`).
    """
    down, up = down_and_up(layer, adapter)
    with torch.no_grad():
        A, B = down.weight.detach().clone(), up.weight.detach().clone()
    start = start_of(layer)
    if start is None:
        return A, B
    A0, B0 = (factor.to(A) for factor in start)
    return torch.cat([A, A0]), torch.cat([B, -B0], dim=1)


def kept_factors(A: Tensor, B: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Truncate: the components (r,) of A (r x in) and B (out x r) that a mask keeps, as copies."""
    return A[mask], B[:, mask]


def lora_scales(model: PeftModel, adapter: str = "default") -> dict[str, float]:
    """Return the factor (``lora_alpha / r``) that multiplies B A in every layer."""
    return {
        name: float(layer.scaling[adapter]) for name, layer in lora_layers(model, adapter).items()
    }


def component_costs(model: PeftModel, adapter: str = "default") -> dict[str, int]:
    """Return the parameters one rank-one component costs in every layer: inputs + outputs."""
    costs = {}
    for name, layer in lora_layers(model, adapter).items():
        down, up = down_and_up(layer, adapter)
        costs[name] = down.in_features + up.out_features
    return costs


def lora_pattern(ranks: Mapping[str, int], scales: Mapping[str, float]) -> dict[str, Any]:
    """Return the ``LoraConfig`` fields that give each layer its own rank and scale.

    ranks: layer name -> rank; layers of rank 0 are left out of ``target_modules``.
    scales: layer name -> the factor ``lora_alpha / r`` that layer must keep.

    PEFT reads pattern keys as regular expressions matched against the *end* of a module's name, so
    the keys are full names behind ``^``. PEFT computes each scale as alpha over that layer's own
    rank, hence an ``alpha_pattern`` beside every ``rank_pattern``.

    Raises UserError when no layer has a rank above 0.
    """
    kept = {name: int(rank) for name, rank in ranks.items() if rank > 0}
    if not kept:
        raise UserError("every layer has rank 0, so there is no LoRA adapter to make")
    largest = max(kept.values())
    alphas = {name: _tidy(scales[name] * rank) for name, rank in kept.items()}
    alpha = next(alphas[name] for name, rank in kept.items() if rank == largest)
    return {
        "r": largest,
        "lora_alpha": alpha,
        "target_modules": list(kept),
        "rank_pattern": {f"^{n}": rank for n, rank in kept.items() if rank != largest},
        "alpha_pattern": {f"^{n}": alphas[n] for n in kept if alphas[n] != alpha},
    }


def _tidy(alpha: float) -> float | int:
    """Write 16.0 as 16: some readers of adapter_config.json expect an integer."""
    return int(alpha) if float(alpha).is_integer() else alpha
