"""Make a tokenizer ready: padding, and no more tokens than the model has positions."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig

__all__ = ["prepare"]


def prepare(tokenizer: Any, config: PretrainedConfig) -> None:
    """Change a tokenizer to suit a model of this configuration.

    It pads at the right (virtual tokens stand next to the text; where text is written, padding is
    decided there), has a token to pad with, and its ``model_max_length`` is no more than the
    model's positions.
    """
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:  # Llama-type models come without one
        tokenizer.pad_token = tokenizer.eos_token
    longest = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    if "roberta" in config.model_type:  # positions are counted from the padding index + 1
        longest -= (config.pad_token_id or 0) + 1
    tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
