"""Make models from configurations, with random weights: nothing is downloaded.

A step's time, memory and synchronisations do not depend on the weights' values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    LlamaConfig,
)

__all__ = ["LARGE", "SMALL", "causal", "classifier"]

# About 1.5 billion parameters (1.54 with tied embeddings), in the proportions that decoders of this
# size have: few key-value heads and wide feed-forward layers.
LARGE: dict[str, int] = {
    "vocab_size": 151_936,
    "hidden_size": 1536,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "intermediate_size": 8960,
}
SMALL: dict[str, int] = {
    "vocab_size": 512,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 256,
}


def classifier(
    layers: int = 1, width: int = 16, dropout: float = 0.0, attention: str = "eager", seed: int = 0
) -> Any:
    """A small BERT with weights large enough that adapters matter, in fp32 on the CPU."""
    torch.manual_seed(seed)
    options: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 2 * width,
        "max_position_embeddings": 64,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "num_labels": 2,
    }
    model = AutoModelForSequenceClassification.from_config(
        BertConfig(**options), attn_implementation=attention
    )
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight *= 5
    return model


def causal(
    shape: dict[str, int],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    attention: str = "sdpa",
) -> Any:
    """A decoder of ``shape``, made on the device in ``dtype``."""
    options: dict[str, Any] = {**shape, "max_position_embeddings": 4096}
    config = LlamaConfig(**options, tie_word_embeddings=True)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype)
    model.config.use_cache = False
    return model
