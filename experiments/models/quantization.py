"""Quantise base models: frozen weights in 4 or 8 bits by bitsandbytes, adapters in full precision.

| | 4bit | 8bit |
|---|---|---|
| weights | NF4 in blocks of 64 | LLM.int8(), a scale for each row |
| products | weights unpacked to fp32 | int8, outlier columns in fp16 |

Everything outside the layers (embeddings, pooler, head) stays as it is: the head is trained, and a
pooler may be. So does GPT-2's fused projection, which is split for training: packed numbers cannot
be.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from bilevel.errors import UserError

__all__ = ["bitsandbytes_config", "check_hardware", "keep_trainable"]


def _package(kind: str) -> Any:
    """Import bitsandbytes.

    Raises:
        UserError: it cannot be.
    """
    # It advises on faster kernels when it is imported, and on rounding at every product in int8.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        return importlib.import_module("bitsandbytes")
    except Exception as error:  # its shared library may fail to load in ways of its own
        raise UserError(
            f"model.quantization={kind} needs the package bitsandbytes, "
            f"pip install '.[quantization]': {_first_line(error)}"
        ) from error


def check_hardware(kind: str) -> None:
    """Multiply by a small quantised matrix on the device that the model will be loaded to.

    Raises:
        UserError: bitsandbytes cannot be imported, or has no routine for this device.
    """
    bnb = _package(kind)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        with torch.random.fork_rng(devices=[]):
            if kind == "4bit":
                layer = bnb.nn.Linear4bit(64, 64, quant_type="nf4")
            else:
                layer = bnb.nn.Linear8bitLt(64, 64, has_fp16_weights=False, threshold=6.0)
            out = layer.to(device)(torch.ones(1, 64, device=device))
            works = bool(torch.isfinite(out).all())
    except Exception as error:  # RuntimeError, NotImplementedError, AttributeError by device
        raise UserError(
            f"model.quantization={kind} does not run on this machine's {device}, "
            f"bitsandbytes says: {_first_line(error)}"
        ) from error
    if not works:
        raise UserError(
            f"model.quantization={kind} gives no finite numbers on this machine's {device}"
        )


def bitsandbytes_config(kind: str, keep: Sequence[str]) -> BitsAndBytesConfig:
    """Return the options of ``from_pretrained``; the modules in ``keep`` are not quantised."""
    return BitsAndBytesConfig(
        load_in_4bit=kind == "4bit",
        load_in_8bit=kind == "8bit",
        bnb_4bit_quant_type="nf4",
        llm_int8_skip_modules=list(keep),
    )


def keep_trainable(model: nn.Module) -> None:
    """Keep 4-bit layers on the CPU to the routine that has gradients.

    On processors with AVX512-BF16, bitsandbytes repacks a layer's weights at its first evaluation
    for a faster routine in bf16 that has no backward pass, and training does not pack them back.
    """
    for module in model.modules():
        layer: Any = module
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0]
