"""Count what a transformers model's own loss is the mean over: examples, tags or tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peft import PeftModel, PeftType
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from bilevel.micro_batches import count_terms

__all__ = ["loss_terms"]

_CAUSAL = frozenset(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())


def loss_terms(module: nn.Module, batch: Mapping[str, Any]) -> float:
    """Terms of the loss of ``module`` on ``batch``.

    A causal language model is never asked for the first token, unless virtual ones come before it.

    Args:
        module: a transformers model, wrapped by PEFT or not, or with one of these as ``model``.
        batch: with ``labels``.
    """
    model: Any = module
    while not isinstance(model, PeftModel) and type(model).__name__ not in _CAUSAL:
        inner = getattr(model, "model", None)
        if not isinstance(inner, nn.Module):
            return count_terms(batch)
        model = inner
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if type(base).__name__ not in _CAUSAL or _puts_tokens_first(model) or "labels" not in batch:
        return count_terms(batch)
    return count_terms({"labels": batch["labels"][:, 1:]})


def _puts_tokens_first(model: nn.Module) -> bool:
    if not isinstance(model, PeftModel):
        return False
    config: Any = model.active_peft_config
    return config.is_prompt_learning and config.peft_type != PeftType.PREFIX_TUNING
