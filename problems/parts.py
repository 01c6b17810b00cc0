"""The parts of a transformer's layers, by the names that the architectures give them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel

from bilevel.errors import UserError

__all__ = ["layer_parts", "layers", "positions"]

# Names inside one layer. The first row that has all the parts that are asked for is taken.
ARCHITECTURES: tuple[dict[str, str], ...] = (
    {  # BERT, RoBERTa, XLM-RoBERTa, ELECTRA
        "key": "attention.self.key",
        "value": "attention.self.value",
        "attention_output": "attention.output.dense",
        "feed_forward_output": "output.dense",
        "feed_forward_norm": "output.LayerNorm",
    },
    {  # DeBERTa v2 and v3; v1 but for key and value, which are one matrix with the query
        "key": "attention.self.key_proj",
        "value": "attention.self.value_proj",
        "attention_output": "attention.output.dense",
        "feed_forward_output": "output.dense",
        "feed_forward_norm": "output.LayerNorm",
    },
    {  # DistilBERT
        "key": "attention.k_lin",
        "value": "attention.v_lin",
        "attention_output": "attention.out_lin",
        "feed_forward_output": "ffn.lin2",
        "feed_forward_norm": "output_layer_norm",
    },
    {  # Llama, Mistral, Qwen; the norms come before the sublayers
        "key": "self_attn.k_proj",
        "value": "self_attn.v_proj",
        "attention_output": "self_attn.o_proj",
        "feed_forward_output": "mlp.down_proj",
    },
    {  # GPT-2, whose query, key and value are one matrix
        "attention_output": "attn.c_proj",
        "feed_forward_output": "mlp.c_proj",
    },
)


def layers(model: PreTrainedModel) -> list[str]:
    """Full names of the layers of the backbone, from the input to the output.

    Raises:
        UserError: there is no numbered stack of layers, or more than one.
    """
    stacks: dict[str, dict[int, None]] = {}
    prefix = f"{model.base_model_prefix}."
    for name, _ in model.named_parameters():
        found = re.match(r"(.*?)\.(\d+)\.", name)
        if found and name.startswith(prefix):
            stacks.setdefault(found[1], {})[int(found[2])] = None
    if len(stacks) != 1:
        raise UserError(
            f"{type(model).__name__} has {len(stacks)} stacks of numbered layers "
            f"({', '.join(stacks) or 'none'}); this method needs exactly one"
        )
    ((stack, numbers),) = stacks.items()
    return [f"{stack}.{number}" for number in sorted(numbers)]


def layer_parts(model: PreTrainedModel, wanted: Sequence[str]) -> list[dict[str, str]]:
    """Full names of the wanted parts in every layer, from the input to the output.

    Raises:
        UserError: the layers have no such parts under any of the names known here.
    """
    modules = {name for name, _ in model.named_modules()}
    for parts in ARCHITECTURES:
        if not set(wanted) <= parts.keys():
            continue
        found = [{part: f"{layer}.{parts[part]}" for part in wanted} for layer in layers(model)]
        if all(name in modules for row in found for name in row.values()):
            return found
    known = "; ".join(
        ", ".join(parts[part] for part in wanted)
        for parts in ARCHITECTURES
        if set(wanted) <= parts.keys()
    )
    raise UserError(
        f"the layers of {type(model).__name__} have no separate "
        f"{', '.join(wanted).replace('_', ' ')} by a name known here ({known})"
    )


def positions(model: PreTrainedModel) -> int | None:
    """The longest input that the model has position embeddings for; None without a limit."""
    for name, module in model.named_modules():
        if name.endswith(("position_embeddings", "wpe")) and isinstance(module, nn.Embedding):
            # RoBERTa counts from the padding index + 1.
            skipped = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - skipped
    return None
