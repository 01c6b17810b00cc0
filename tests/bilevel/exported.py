"""What tests of the export share: logits, pruning in the live model, the written files."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from bilevel.lowrank.layers import lora_layers


def logits(model, batch) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(**batch).logits


def pruned(model, masks) -> None:
    """Zero the components outside ``masks`` in the live model: the reference for pruned exports."""
    for name, layer in lora_layers(model).items():
        layer.lora_B["default"].weight.data[:, ~masks[name]] = 0.0


def config(folder: Path) -> dict:
    return json.loads((folder / "adapter_config.json").read_text())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")
