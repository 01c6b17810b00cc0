r"""Remember the factors that LoRA started at where they were taken out of the base's own weights.

PiSSA and OLoRA start at factors A0, B0 with s B0 A0 a part of the pretrained W0, and leave

    W0 - s B0 A0 + s B A  =  W0 + s [B, -B0] [A; A0],

so that with A0 and B0 kept the adapter is plain LoRA of rank 2r on the untouched base, exactly.
"""

from __future__ import annotations

from typing import cast

from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor

__all__ = ["remember_start", "start_of"]

NAMES = ("moved_base_A", "moved_base_B")


def remember_start(model: PeftModel, adapter: str = "default") -> None:
    """Keep copies of the factors of all layers as they are now, which left the base's weights."""
    for module in model.modules():
        if isinstance(module, LoraLayer) and adapter in module.lora_A:
            down, up = module.lora_A[adapter], module.lora_B[adapter]
            for name, map_ in zip(NAMES, (down, up), strict=True):
                kept = cast(Tensor, map_.weight).detach().clone()
                # Not in the state dict: stock PEFT knows nothing of it.
                module.register_buffer(name, kept, persistent=False)


def start_of(layer: LoraLayer) -> tuple[Tensor, Tensor] | None:
    """A0 (r x in) and B0 (out x r) of a layer whose base has lost s B0 A0; None of any other."""
    buffers = vars(layer)["_buffers"]
    if NAMES[0] not in buffers:
        return None
    return buffers[NAMES[0]], buffers[NAMES[1]]
