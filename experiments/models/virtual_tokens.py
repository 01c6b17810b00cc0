"""Leave an adapter's own tokens their positions: the texts beside them are cut earlier."""

from __future__ import annotations

import copy
from typing import Any, cast

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from problems.common.layer_names import positions

__all__ = ["beside_adapter", "leaving"]


def leaving(tokenizer: Any, virtual_tokens: int, limit: int | None) -> Any:
    """A tokenizer that cuts texts to the positions beside virtual tokens.

    Args:
        tokenizer: of the model; it stays as it is, others may share it.
        virtual_tokens: that stand before each text.
        limit: the model's positions; None without a limit.
    """
    if not virtual_tokens or limit is None:
        return tokenizer
    own = copy.deepcopy(tokenizer)
    own.model_max_length = min(own.model_max_length, max(1, limit - virtual_tokens))
    return own


def beside_adapter(tokenizer: Any, model: nn.Module) -> Any:
    """The same for a model with its adapter, whose tokenizer it is."""
    if not isinstance(model, PeftModel):
        return tokenizer
    config = model.active_peft_config
    if not config.is_prompt_learning:
        return tokenizer
    return leaving(
        tokenizer, int(config.num_virtual_tokens), positions(cast(PreTrainedModel, model))
    )
