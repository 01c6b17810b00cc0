"""Measure how far fine-tuning moved the weights: cosine similarity to the pretrained, by module."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

__all__ = ["moved"]


@torch.no_grad()
def moved(tuned: nn.Module, pretrained: nn.Module) -> dict[str, dict[str, float | None]] | None:
    """Compare each matrix of the layers that fine-tuning changed with its pretrained value.

    Args:
        tuned: a PEFT model (its adapter is merged into it, for good) or a plain one.
        pretrained: the untouched base model.

    Returns:
        Module name -> ``cosine`` = <W, W0> / (|W| |W0|) and ``relative_norm`` = |W - W0| / |W0|
        (Frobenius), or None where no weights change (prompts, bottleneck adapters) and for a
        quantised base, whose packed numbers are no matrices.
    """
    if getattr(pretrained, "is_quantized", False):
        return None
    if isinstance(tuned, PeftModel):
        if tuned.peft_config["default"].is_prompt_learning:
            return None
        # Not unloaded: PEFT cannot do that with IA3 beside a head of more than one linear map.
        tuned.float()  # in bfloat16 a small update would be rounded away
        tuned.merge_adapter()
        tuned = tuned.get_base_model()
    elif type(tuned) is not type(pretrained):
        return None
    after: dict[str, Any] = {
        name.replace(".base_layer.", "."): parameter for name, parameter in tuned.named_parameters()
    }
    found = {}
    for name, before in pretrained.named_parameters():
        if before.ndim != 2 or not any(part.isdecimal() for part in name.split(".")):
            continue  # embeddings, biases, norms, heads
        a, b = after[name].cpu().double(), before.cpu().double()
        difference = _norm(a - b)
        if difference > 0:
            found[name.removesuffix(".weight")] = {
                "cosine": _ratio(float((a * b).sum()), _norm(a) * _norm(b)),
                "relative_norm": _ratio(difference, _norm(b)),
            }
    return found or None


def _ratio(x: float, y: float) -> float | None:
    """x / y, None where a matrix is zero and it means nothing."""
    return x / y if y else None


def _norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix))
