"""Compute in mixed precision by autocast, and sum in float64 where a device has it.

Trainable parameters stay in fp32.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from bilevel.errors import UserError

__all__ = ["PRECISIONS", "autocast", "has_float64", "in_float64", "make_scaler", "resolve"]

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve(precision: str, device: torch.device | str) -> str:
    """``fp32 | bf16 | fp16``; ``auto`` is bf16 where the hardware computes in it, else fp32.

    bf16 by emulation runs everywhere but is slower than fp32, so ``auto`` does not choose it.
    Raises :class:`UserError` for any other name.
    """
    if precision not in PRECISIONS:
        raise UserError(f"unknown precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision
    return "bf16" if _bf16_is_native(torch.device(device)) else "fp32"


def autocast(precision: str, device_type: str) -> AbstractContextManager[None]:
    """Context in which matrix products run in ``precision`` (as :func:`resolve` returned it).

    ``fp32`` switches an autocast around it off. Inside one context autocast remembers the cast of
    each parameter: enter it anew after changing parameters in place.
    """
    if precision == "fp32":
        # Nothing to switch off is the common case, and entering autocast costs microseconds.
        if not torch.is_autocast_enabled(device_type):
            return contextlib.nullcontext()
        return torch.autocast(device_type, enabled=False)
    return torch.autocast(device_type, dtype=_DTYPES[precision])


def has_float64(device: torch.device) -> bool:
    """Whether tensors on a device may be in float64; Apple's MPS has none."""
    return device.type != "mps"


def in_float64(tensor: Tensor) -> Tensor:
    """A tensor in float64, where it is if that device has it, else on the CPU.

    The copy to the CPU waits for the device, which a GPU with float64 is spared. It can be
    differentiated through.
    """
    return (tensor if has_float64(tensor.device) else _on_host(tensor)).double()


def make_scaler(
    precision: str,
    device: torch.device | str,
    init_scale: float = 2.0**16,
    growth_factor: float = 2.0,
) -> torch.amp.GradScaler | None:
    """Loss scaler for ``fp16``, whose gradients underflow without one; None otherwise."""
    if precision != "fp16":
        return None
    return torch.amp.GradScaler(
        torch.device(device).type, init_scale=init_scale, growth_factor=growth_factor
    )


def _on_host(tensor: Tensor) -> Tensor:
    return tensor.cpu()  # and only then converted: MPS would convert it where it is


def _bf16_is_native(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # Private names, for want of public ones in the older versions of PyTorch that we allow.
        probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
    return False
