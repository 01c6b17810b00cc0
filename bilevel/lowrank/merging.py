"""Merge an exported adapter into its base model, for readers that know nothing of adapters."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bilevel.errors import UserError
from bilevel.lowrank.adapter_files import load_adapter

__all__ = ["merge"]


def merge(
    adapter_folder: str | Path,
    base_model: PreTrainedModel,
    batches: Iterable[Mapping[str, Tensor]] = (),
) -> tuple[PreTrainedModel, float]:
    """Return (a plain model in fp32 with the adapter and its head merged in, largest difference).

    adapter_folder: either layout of an export, or any LoRA adapter. base_model stays as it is.
    batches: keyword arguments of the model's forward, on the base model's device. The difference is
    the largest |logit after - logit before merging| over all of them, both in fp32 and in
    evaluation mode; nan without batches. The merged model is returned in evaluation mode.

    Merging adds ``scale * B A`` to the weights in fp32 whatever the base's precision was: in bf16
    an update smaller than 1/256 of a weight would be rounded away.

    Raises UserError for a folder without an adapter, a quantised base, an adapter that is damaged
    or does not fit the base, or merged weights that are not finite.
    """
    folder = Path(adapter_folder)
    if not (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder} holds no adapter: there is no adapter_config.json in it")
    if getattr(base_model, "is_quantized", False):
        raise UserError(
            "a quantised base model cannot take a merged adapter without loss; "
            "load the base in fp32 or bf16"
        )
    # PEFT puts its layers into the very model it is given.
    base = copy.deepcopy(base_model).float()
    model = load_adapter(base, folder).eval()
    kept = [dict(batch) for batch in batches]
    before = [_logits(model, batch) for batch in kept]
    try:
        merged: PreTrainedModel = model.merge_and_unload(safe_merge=True)
    except ValueError as error:  # safe_merge found a value that is not finite
        raise UserError(f"the adapter in {folder} cannot be merged: {error}") from error
    merged.eval()
    after = [_logits(merged, batch) for batch in kept]
    differences = [(a - b).abs().max().item() for a, b in zip(after, before, strict=True)]
    return merged, max(differences, default=float("nan"))


def _logits(model: torch.nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(**batch).logits
    return logits
