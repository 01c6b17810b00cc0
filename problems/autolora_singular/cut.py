"""Fold learned gates into their factors, and take what is kept of them to the next stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from bilevel import lowrank
from bilevel.lowrank.layers import down_and_up

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor

    from bilevel.lowrank import Gates
    from bilevel.lowrank.ranks import Keep

__all__ = ["fold_learned", "kept_weights"]


def fold_learned(model: PeftModel, gates: Gates) -> None:
    """Multiply the gates into the factors for good, drawn ones at their mean over the noise."""
    gates.fix(gates.expected())
    lowrank.fold_gates(model)


@torch.no_grad()
def kept_weights(model: PeftModel, keep: Keep) -> dict[str, Tensor]:
    """What is trained of a model with plain LoRA, by name, without the components that are cut."""
    names = {id(p): n for n, p in model.named_parameters()}
    found = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    for layer, module in lowrank.lora_layers(model).items():
        down, up = down_and_up(module)
        mask = keep[layer].to(up.weight.device)
        kept = lowrank.kept_factors(down.weight, up.weight, mask)
        found |= {names[id(down.weight)]: kept[0], names[id(up.weight)]: kept[1]}
    return found
