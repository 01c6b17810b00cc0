"""Export to plain LoRA, in two layouts of one and the same update, for stock PEFT to load.

- ``adapter`` (uniform): every layer zero-padded to one rank r, each layer's scale multiplied into
  B, ``lora_alpha = r`` so that the reader's scale is 1, no patterns. Right also in readers that
  know ``r`` and ``lora_alpha`` only and apply one scale everywhere.
- ``adapter_compact``: true ranks; ``rank_pattern`` with full names behind ``^``, and an
  ``alpha_pattern`` that keeps each layer's scale as in training. Layers of rank 0 are absent, but
  with trained biases, which PEFT puts into layers with LoRA alone: then they are a component of 0.

Heads (``modules_to_save``) and trained biases are in both. The parts of a split projection are put
together again (:mod:`bilevel.lowrank.fused`), so that both layouts are for the stock model.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from torch import Tensor

from bilevel.checkpoint.disk import told_when_full
from bilevel.errors import UserError
from bilevel.lowrank.attach import gated_layers
from bilevel.lowrank.fused import fuse
from bilevel.lowrank.layers import (
    kept_factors,
    lora_factors,
    lora_layers,
    lora_pattern,
    lora_scales,
)
from bilevel.lowrank.moved_base import start_of
from bilevel.precision import in_float64

__all__ = ["COMPACT", "UNIFORM", "ExportReport", "export_adapter", "plain_config"]

UNIFORM = "adapter"
COMPACT = "adapter_compact"

Factors = dict[str, tuple[Tensor, Tensor]]  # layer name -> A (r x in), B (out x r)

# Starts of LoRA that leave the base model's weights as they are; others (PiSSA, OLoRA, ...) move
# part of the base into the adapter, which is then wrong on an untouched base.
_STARTS_ON_A_PLAIN_BASE = (True, False, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    ranks: layer -> rank (0 for a layer cut completely), the parts of a split projection each for
    itself. parameters: of A and B in the compact layout, without the zeros that fill up a fused B
    or stand for a layer of rank 0;
    head_parameters: of the heads and biases saved beside them. cut: the Frobenius norm of all that
    was cut from the updates, as a fraction of the norm of all updates (0: lossless).
    """

    ranks: dict[str, int]
    parameters: int
    head_parameters: int
    cut: float
    adapter: Path
    compact: Path


def export_adapter(
    model: PeftModel,
    folder: str | Path,
    keep: Mapping[str, Tensor] | None = None,
    threshold: float | None = None,
    adapter: str = "default",
) -> ExportReport:
    """Write ``folder/adapter`` and ``folder/adapter_compact``; the model stays as it is.

    keep: layer name -> boolean mask (r,) of the components to keep (see ``ranks.Rule.keep``).
    threshold: keep the components whose gate is at least this large in size; needs gates.
    With neither, all components are kept but those whose gate is exactly 0, which changes nothing.

    Gates are multiplied into A at their noise-free values, whether folded already or not.

    Raises UserError for keep and threshold together, masks that do not fit the layers, a threshold
    without gates, an adapter that is no plain LoRA on an untouched base, trained biases of a split
    projection, or a full disk.
    """
    layers = lora_layers(model, adapter)
    config = plain_config(model.peft_config[adapter])
    masks = _masks(model, adapter, keep, threshold)
    if (keep is not None or threshold is not None) and any(map(start_of, layers.values())):
        raise UserError(
            "a start in the base's own weights (pissa, olora) is a part of every component, so "
            "none of them can be cut: export the whole adapter, and cut that"
        )
    scales = lora_scales(model, adapter)
    factors: Factors = {}
    cut_square, full_square = 0.0, 0.0
    for name, layer in layers.items():
        A, B = (_at_least_fp32(factor.cpu()) for factor in lora_factors(layer, adapter))
        mask = masks[name]
        full_square += scales[name] ** 2 * _squared_norm(A, B)
        cut_square += scales[name] ** 2 * _squared_norm(*kept_factors(A, B, ~mask))
        factors[name] = kept_factors(A, B, mask)
    others = _other_tensors(model, adapter)
    report = ExportReport(
        ranks={name: len(A) for name, (A, _) in factors.items()},
        parameters=sum(A.numel() + B.numel() for A, B in factors.values()),
        head_parameters=sum(tensor.numel() for tensor in others.values()),
        cut=(cut_square / full_square) ** 0.5 if full_square > 0 else 0.0,
        adapter=Path(folder) / UNIFORM,
        compact=Path(folder) / COMPACT,
    )
    config.fan_in_fan_out = any(vars(layer).get("fan_in_fan_out") for layer in layers.values())
    parts = factors
    factors, scales = fuse(model.get_base_model(), parts, scales)
    if factors.keys() != parts.keys() and config.bias != "none":
        raise UserError(
            f"bias={config.bias!r} trains biases of a split query-key-value projection, which "
            "cannot be exported; use bias='none'"
        )
    _write(report.adapter, config, *_uniform(factors, scales), others)
    _write(report.compact, config, *_compact(factors, scales, config.bias != "none"), others)
    return report


def plain_config(config: PeftConfig) -> LoraConfig:
    """Return a copy without anything that only mattered in training or that the export writes.

    Raises UserError for options that plain ``W + scale * B A`` on an untouched base cannot express.
    """
    if not isinstance(config, LoraConfig):
        raise UserError(f"only LoRA adapters can be exported, not {config.peft_type}")
    if config.init_lora_weights not in _STARTS_ON_A_PLAIN_BASE:
        raise UserError(
            f"init_lora_weights={config.init_lora_weights!r} changes the base model's weights, so "
            "the adapter is no plain LoRA on that base; use True, gaussian, orthogonal or eva"
        )
    options = config.to_dict()
    others = ("trainable_token_indices", "target_parameters", "layer_replication", "lora_bias")
    for field in others:
        if options.get(field):  # not every PEFT that we allow has all of them
            raise UserError(f"an adapter with {field} cannot be exported as plain LoRA")
    plain = copy.deepcopy(config)
    plain.inference_mode = True
    plain.use_rslora = False  # the layers' own scales already hold it
    plain.init_lora_weights = True
    plain.eva_config = None
    if plain.modules_to_save:
        # PEFT's own list names a head twice when the user and the task type both do.
        plain.modules_to_save = list(dict.fromkeys(plain.modules_to_save))
    plain.exclude_modules = plain.layers_to_transform = plain.layers_pattern = None
    return plain


def _masks(
    model: PeftModel, adapter: str, keep: Mapping[str, Tensor] | None, threshold: float | None
) -> dict[str, Tensor]:
    """Return which components of every layer stay, as boolean masks on the CPU."""
    if keep is not None and threshold is not None:
        raise UserError("give the export either keep masks or a threshold, not both")
    sizes = {
        name: len(lora_factors(layer, adapter)[0])
        for name, layer in lora_layers(model, adapter).items()
    }
    if keep is not None:
        strange = sorted(set(sizes) ^ set(keep))
        if strange:
            raise UserError(f"the keep masks and the adapter do not agree on layer {strange[0]!r}")
        for name, size in sizes.items():
            if keep[name].dtype != torch.bool or keep[name].shape != (size,):
                raise UserError(f"the keep mask of {name} must be {size} booleans, one a component")
        return {name: keep[name].detach().cpu() for name in sizes}
    gated = gated_layers(model, adapter)
    if not gated:
        if threshold is not None:
            raise UserError("an export threshold needs gates, and this adapter has none attached")
        return {name: torch.ones(size, dtype=torch.bool) for name, size in sizes.items()}
    values = {n: g.gates.values()[g.index].detach().abs().cpu() for n, g in gated.items()}
    return {n: v > 0 if threshold is None else v >= threshold for n, v in values.items()}


def _at_least_fp32(factor: Tensor) -> Tensor:
    return factor if factor.dtype == torch.float64 else factor.float()


def _squared_norm(A: Tensor, B: Tensor) -> float:
    """Return ||B A||_F^2 = <B^T B, A A^T>, without forming the (out x in) product."""
    A, B = in_float64(A), in_float64(B)
    return float(((B.T @ B) * (A @ A.T)).sum())


def _other_tensors(model: PeftModel, adapter: str) -> dict[str, Tensor]:
    """Return what PEFT saves beside A and B (heads, biases), under the names it saves them by."""
    # save_embedding_layers="auto" may look for the base model on the hub.
    state = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    return {
        key: tensor.detach().cpu().clone()
        for key, tensor in state.items()
        if ".lora_A." not in key and ".lora_B." not in key
    }


def _uniform(factors: Factors, scales: Mapping[str, float]) -> tuple[Factors, dict[str, Any]]:
    """Pad every layer with zeros to the largest rank, at least 1, and fold its scale into B."""
    r = max(1, *(len(A) for A, _ in factors.values()))
    padded = {}
    for name, (A, B) in factors.items():
        missing = r - len(A)
        padded[name] = (
            torch.nn.functional.pad(A, (0, 0, 0, missing)),
            torch.nn.functional.pad(B * scales[name], (0, missing)),
        )
    fields = {"r": r, "lora_alpha": r, "target_modules": list(factors)}
    return padded, fields | {"rank_pattern": {}, "alpha_pattern": {}}


def _compact(
    factors: Factors, scales: Mapping[str, float], biases: bool
) -> tuple[Factors, dict[str, Any]]:
    """Leave out layers of rank 0 and give every other layer its own rank and alpha.

    With biases they stay, as a component of zeros: PEFT puts no bias into a layer without LoRA.
    """

    def zeros(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        return A.new_zeros(1, A.shape[1]), B.new_zeros(B.shape[0], 1)

    kept = {
        name: (A, B) if len(A) else zeros(A, B)
        for name, (A, B) in factors.items()
        if len(A) or biases
    }
    if not kept:
        # PEFT refuses an adapter that targets nothing: one layer of zeros carries the heads.
        name, (A, B) = next(iter(factors.items()))
        kept = {name: zeros(A, B)}
    return kept, lora_pattern({name: len(A) for name, (A, _) in kept.items()}, scales)


def _write(
    folder: Path,
    config: LoraConfig,
    factors: Factors,
    fields: Mapping[str, Any],
    others: Mapping[str, Tensor],
) -> None:
    tensors = dict(others)
    for name, (A, B) in factors.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = A.contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = B.contiguous()
    config = copy.deepcopy(config)
    for field, value in fields.items():
        setattr(config, field, value)
    with told_when_full(folder):
        data = safetensors.torch.save(tensors, metadata={"format": "pt"})
        (folder / SAFETENSORS_WEIGHTS_NAME).write_bytes(data)
        # Last, so that a folder whose writing was cut short does not load.
        config.save_pretrained(str(folder))
