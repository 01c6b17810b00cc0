"""Run a model as it is evaluated: no dropout, in the precision that its weights need."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from bilevel import precision
from bilevel.sharding import device_of

__all__ = ["draws_masks", "evaluating", "evaluating_for_gradients", "matching_autocast"]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; at the end every module has its mode back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def evaluating_for_gradients(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a loss that is differentiated, with gradient checkpointing as it was.

    transformers' layers compute their activations again in training mode alone. Here they are told
    that they train, and what is inside them is in evaluation mode, in the backward pass too, which
    comes when the modes are back.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [part for part in model.modules() if isinstance(part, GradientCheckpointingLayer)]
    functions: dict[Any, Any] = {
        layer: layer._gradient_checkpointing_func
        for layer in layers
        if layer.gradient_checkpointing
    }
    with evaluating(model):
        for layer, checkpoint in functions.items():
            layer.training = True
            layer._gradient_checkpointing_func = partial(_evaluated, checkpoint, layer)
        try:
            yield
        finally:
            for layer, checkpoint in functions.items():
                layer._gradient_checkpointing_func = checkpoint


def _evaluated(
    checkpoint: Callable[..., Any], layer: nn.Module, forward: Callable[..., Any], *arguments: Any
) -> Any:
    """``checkpoint`` of a layer's forward pass that is in evaluation mode whenever it is run."""

    def run(*inputs: Any) -> Any:
        with evaluating(layer):
            return forward(*inputs)

    return checkpoint(run, *arguments)


def matching_autocast(model: nn.Module) -> AbstractContextManager[None]:
    """What a model has to compute under: bf16 autocast if it has weights of both precisions.

    A float32 head cannot take bfloat16 input otherwise. A model in one precision computes in it.
    """
    found = {parameter.dtype for parameter in model.parameters()}
    mixed = {torch.float32, torch.bfloat16} <= found
    return precision.autocast("bf16", device_of(model).type) if mixed else nullcontext()


def draws_masks(module: nn.Module) -> bool:
    """Whether a module in training draws dropout masks, in layers or inside its attention.

    A layer of another kind that draws at random says so: its attribute ``draws`` is True.
    """
    for part in module.modules():
        if getattr(part, "draws", False) is True or (isinstance(part, _DropoutNd) and part.p > 0):
            return True
    if "transformers" not in sys.modules:  # then no module is one of its models
        return False
    from transformers import PreTrainedModel

    configs = [m.config.to_dict() for m in module.modules() if isinstance(m, PreTrainedModel)]
    rates = [p for config in configs for key, p in config.items() if "drop" in key]
    return any(isinstance(p, float) and p > 0 for p in rates)
