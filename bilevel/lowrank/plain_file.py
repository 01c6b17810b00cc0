"""See, before its base model is loaded, that an adapter's file holds plain LoRA that can be cut."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft.utils import SAFETENSORS_WEIGHTS_NAME

from bilevel.errors import UserError
from bilevel.lowrank.adapter_files import opened

__all__ = ["check_plain"]


def check_plain(options: Mapping[str, Any], folder: Path) -> None:
    """See that every update is s B A of a linear layer, with a positive s and finite numbers.

    Args:
        options: what adapter_config.json says, checked.
        folder: of the adapter.

    Raises:
        UserError: names what is not.
    """
    path = folder / SAFETENSORS_WEIGHTS_NAME
    alphas = [options.get("lora_alpha", 1), *options.get("alpha_pattern", {}).values()]
    if min(alphas) <= 0:
        raise UserError(
            f"{folder}: the update's scale is not positive (lora_alpha or alpha_pattern is "
            f"{min(alphas):g}), so its components have no order"
        )
    with opened(path) as file:
        names = list(file.keys())
        if not any(".lora_" in name for name in names):
            raise UserError(f"{path} holds no LoRA tensors")
        for name in names:
            if ".lora_embedding_" in name:
                raise UserError(
                    f"{path}: {name} is of an embedding, and only linear layers are cut"
                )
            tensor = file.get_tensor(name)
            if (".lora_A." in name or ".lora_B." in name) and tensor.dim() != 2:
                raise UserError(
                    f"{path}: {name} has the shape {tuple(tensor.shape)}, and only linear layers "
                    "are cut, whose factors are matrices"
                )
            if not torch.isfinite(tensor).all():
                raise UserError(f"{path}: {name} holds numbers that are not finite")
