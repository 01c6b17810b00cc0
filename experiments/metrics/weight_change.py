"""Measure how far fine-tuning moved the weights: cosine similarity to the pretrained, by module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

__all__ = ["moved"]


@torch.no_grad()
def moved(
    tuned: nn.Module, pretrained: Callable[[], nn.Module]
) -> dict[str, dict[str, float | None]] | None:
    """Compare each matrix of the layers that fine-tuning changed with its pretrained value.

    Args:
        tuned: a PEFT model on the pretrained one (its adapter is merged into it, for good) or a
            plain one.
        pretrained: makes the untouched base model; not called for a PEFT model, which holds it.

    Returns:
        Module name -> ``cosine`` = <W, W0> / (|W| |W0|) and ``relative_norm`` = |W - W0| / |W0|
        (Frobenius), or None where no weights change (prompts, bottleneck adapters) and for a
        quantised base, whose packed numbers are no matrices.
    """
    if isinstance(tuned, PeftModel):
        base: Any = tuned.get_base_model()
        if tuned.peft_config["default"].is_prompt_learning or _is_quantised(base):
            return None
        pairs = _merged(base)
    else:
        if not isinstance(tuned, PreTrainedModel):
            return None
        base = pretrained()
        if _is_quantised(base) or type(tuned) is not type(base):
            return None
        pairs = _beside(tuned, base)
    found = {}
    for name, after, before in pairs:
        if before.ndim != 2 or not any(part.isdecimal() for part in name.split(".")):
            continue  # embeddings, biases, norms, heads
        a, b = after.cpu().double(), before.cpu().double()
        difference = _norm(a - b)
        if difference > 0:
            found[name.removesuffix(".weight")] = {
                "cosine": _ratio(float((a * b).sum()), _norm(a) * _norm(b)),
                "relative_norm": _ratio(difference, _norm(b)),
            }
    return found or None


def _is_quantised(model: nn.Module) -> bool:
    return bool(getattr(model, "is_quantized", False))


def _merged(base: nn.Module) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(name, W, W0) of each adapted layer, which is merged here: never two whole models at once."""
    layers: list[tuple[str, Any]] = [
        (name, part) for name, part in base.named_modules() if isinstance(part, BaseTunerLayer)
    ]
    for name, layer in layers:
        precision = layer.get_base_layer().weight.dtype
        layer.float()  # in bfloat16 a small update would be rounded away
        before = layer.get_base_layer().weight.detach().clone()
        # Not unloaded: PEFT cannot do that with IA3 beside a head of more than one linear map.
        layer.merge()
        yield f"{name}.weight", layer.get_base_layer().weight, before
        layer.to(precision)


def _beside(tuned: nn.Module, base: nn.Module) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(name, W, W0) of each parameter."""
    after = dict(tuned.named_parameters())
    for name, before in base.named_parameters():
        yield name, after[name], before


def _ratio(x: float, y: float) -> float | None:
    """x / y, None where a matrix is zero and it means nothing."""
    return x / y if y else None


def _norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix))
