"""Hold models in less memory: frozen weights in bfloat16, activations computed again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from bilevel.errors import UserError

__all__ = [
    "heads_in_float32",
    "recompute",
    "settled_precision",
    "without_cache",
]

Precision = Literal["auto", "fp32", "bf16", "fp16"]

# DeBERTa v1 adds a float32 bias to its queries, and then fills in float32's least number.
FLOAT32_ONLY = ("deberta",)


def heads_in_float32(model: nn.Module, heads: Sequence[str]) -> None:
    """Hold the modules that are trained in full in float32, whatever the rest is held in."""
    for name in heads:
        model.get_submodule(name).float()


def settled_precision(config: PretrainedConfig, dtype: str, precision: Precision) -> Precision:
    """The precision to train this architecture in, with frozen weights of this dtype.

    Raises:
        UserError: it computes in float32 only, and another precision is asked for.
    """
    if config.model_type in FLOAT32_ONLY:
        if dtype != "float32" or precision not in ("auto", "fp32"):
            raise UserError(
                f"{config.model_type} computes in float32 only (its attention mixes precisions in "
                "transformers): take engine.precision=fp32 and model.dtype=float32"
            )
        return "fp32"
    # a float32 head cannot take bfloat16 input without autocast
    return "bf16" if dtype == "bfloat16" and precision == "auto" else precision


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


@contextmanager
def without_cache(model: nn.Module) -> Iterator[None]:
    """Keep no keys and values for tokens to come, as decoders do in every forward pass.

    That is a copy of them in training, and in evaluation those of all layers at once, for nothing.
    The configuration has its value back at the end: it is saved with the model.
    """
    configs = {id(m.config): m.config for m in model.modules() if isinstance(m, PreTrainedModel)}
    caching = [config for config in configs.values() if getattr(config, "use_cache", False)]
    for config in caching:
        config.use_cache = False
    try:
        yield
    finally:
        for config in caching:
            config.use_cache = True
