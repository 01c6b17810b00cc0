"""Find the parts of a transformer's layers by the names that the architectures give them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel

from bilevel.errors import UserError

__all__ = ["layer_parts", "layers", "positions"]

# Names inside one layer. The first row that has all the parts that are asked for is taken. Of the
# names behind a "|" a layer has those that it has: a decoder's layer has two attentions.
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
    {  # BART; mBART calls another norm, the one before, by the name of BART's
        "key": "self_attn.k_proj|encoder_attn.k_proj",
        "value": "self_attn.v_proj|encoder_attn.v_proj",
        "attention_output": "self_attn.out_proj|encoder_attn.out_proj",
        "feed_forward_output": "fc2",
    },
    {  # T5; the norms come before the sublayers
        "key": "layer.0.SelfAttention.k|layer.1.EncDecAttention.k",
        "value": "layer.0.SelfAttention.v|layer.1.EncDecAttention.v",
        "attention_output": "layer.0.SelfAttention.o|layer.1.EncDecAttention.o",
        "feed_forward_output": "layer.1.DenseReluDense.wo|layer.2.DenseReluDense.wo",
    },
    {  # GPT-2, whose query, key and value are one matrix
        "attention_output": "attn.c_proj",
        "feed_forward_output": "mlp.c_proj",
    },
)

# Names of the embeddings of positions: BERT's, GPT-2's, BART's.
POSITIONS = ("position_embeddings", "wpe", "embed_positions")


def layers(model: PreTrainedModel) -> list[str]:
    """Full names of the layers of the backbone, from the input to the output.

    Raises:
        UserError: there is no numbered stack of layers, or more than one.
    """
    found = _stacks(model)
    if len(found) != 1:
        raise UserError(
            f"{type(model).__name__} has {len(found)} stacks of numbered layers "
            f"({', '.join(found) or 'none'}); this method needs exactly one"
        )
    return next(iter(found.values()))


def _stacks(model: PreTrainedModel) -> dict[str, list[str]]:
    """The stacks of numbered layers (two with encoder and decoder), each with its layers."""
    numbers: dict[str, dict[int, None]] = {}
    prefix = model.base_model_prefix
    # T5 with its vocabulary as the head has no backbone of that name: it is one itself.
    inside = "" if model.base_model is model else f"{prefix}."
    for name, _ in model.named_parameters():
        found = re.match(r"(.*?)\.(\d+)\.", name)
        if found and name.startswith(inside):
            numbers.setdefault(found[1], {})[int(found[2])] = None
    return {stack: [f"{stack}.{i}" for i in sorted(found)] for stack, found in numbers.items()}


def layer_parts(model: PreTrainedModel, wanted: Sequence[str]) -> list[dict[str, list[str]]]:
    """Full names of the wanted parts in every layer, from the input to the output.

    A part of a layer is mostly one module; those of attention are two in a decoder's layer that
    also attends to an encoder.

    Raises:
        UserError: the layers have no such parts under any of the names known here.
    """
    modules = {name for name, _ in model.named_modules()}
    every = [layer for stack in _stacks(model).values() for layer in stack]
    for parts in ARCHITECTURES:
        if not set(wanted) <= parts.keys():
            continue
        found = [
            {
                part: [n for end in parts[part].split("|") if (n := f"{layer}.{end}") in modules]
                for part in wanted
            }
            for layer in every
        ]
        if found and all(names for row in found for names in row.values()):
            return found
    known = "; ".join(
        dict.fromkeys(
            ", ".join(parts[part].replace("|", ", ") for part in wanted)
            for parts in ARCHITECTURES
            if set(wanted) <= parts.keys()
        )
    )
    raise UserError(
        f"the layers of {type(model).__name__} have no separate "
        f"{', '.join(wanted).replace('_', ' ')} by a name known here ({known})"
    )


def positions(model: PreTrainedModel) -> int | None:
    """The longest input that the model has position embeddings for; None without a limit."""
    for name, module in model.named_modules():
        if name.endswith(POSITIONS) and isinstance(module, nn.Embedding):
            # RoBERTa counts from the padding index + 1, BART from its own offset.
            skipped = 0 if module.padding_idx is None else module.padding_idx + 1
            skipped = getattr(module, "offset", skipped)
            return module.num_embeddings - skipped
    return None
