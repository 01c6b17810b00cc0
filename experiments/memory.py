"""Models in less memory: frozen weights in bfloat16, activations computed again when needed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from transformers import PreTrainedModel

from bilevel import precision
from bilevel.errors import UserError

__all__ = ["DTYPES", "check_dtype", "heads_in_float32", "matching_autocast", "recompute"]

DTYPES = ("float32", "bfloat16")


def check_dtype(dtype: str) -> None:
    """Raise UserError for a precision that weights are not held in here."""
    if dtype not in DTYPES:
        raise UserError(f"model.dtype={dtype} is unknown: allowed are {', '.join(DTYPES)}")


def heads_in_float32(model: nn.Module, heads: Sequence[str]) -> None:
    """Hold the modules that are trained in full in float32, whatever the rest is held in."""
    for name in heads:
        model.get_submodule(name).float()


def recompute(model: PreTrainedModel) -> None:
    """Gradient checkpointing: keep no activations inside a layer, compute them again backward.

    The non-reentrant kind, which can be differentiated twice and needs no gradient at its input;
    it draws the dropout masks again from the same random state.

    Raises:
        UserError: the architecture does not have it.
    """
    if not model.supports_gradient_checkpointing:
        raise UserError(
            f"model.gradient_checkpointing=true: {type(model).__name__} cannot do that, use false"
        )
    model.activation_checkpointing_enable({"use_reentrant": False})


def matching_autocast(model: nn.Module) -> AbstractContextManager[None]:
    """What a model has to compute under: bf16 autocast if it has weights of both precisions.

    A float32 head cannot take bfloat16 input otherwise. A model in one precision computes in it.
    """
    device = next(model.parameters()).device.type
    found = {parameter.dtype for parameter in model.parameters()}
    mixed = {torch.float32, torch.bfloat16} <= found
    return precision.autocast("bf16", device) if mixed else nullcontext()
