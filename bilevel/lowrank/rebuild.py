"""Build a plain LoRA model from given factors, for methods that train another form."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from torch import Tensor

from bilevel.errors import UserError
from bilevel.lowrank.fused import built_of_conv1d
from bilevel.lowrank.layers import down_and_up, lora_layers, lora_pattern

__all__ = ["plain_lora"]


def plain_lora(
    model: PeftModel,
    factors: Mapping[str, tuple[Tensor, Tensor]],
    scales: Mapping[str, float],
    adapter: str = "default",
    dropout: float = 0.0,
) -> PeftModel:
    """Take ``model``'s adapters off and put plain LoRA with these factors on its base.

    model: a PEFT model of any tuner that can be taken off; it is used up. Its trained heads
    (``modules_to_save`` of ``adapter``) are carried over. factors: layer name in the base model ->
    A (r x in) and B (out x r); layers of rank 0 are left out. scales: layer name -> the factor of
    B A. The result adds ``scale * B A`` to each layer and has the adapter name ``default``.
    dropout: on the low-rank branch, where the result is to be trained.

    Raises UserError when no layer has a rank above 0, or the factors fit no layer.
    """
    trained = model.peft_config[adapter]
    # Not every kind of adapter has heads.
    heads = list(dict.fromkeys(trained.to_dict().get("modules_to_save") or ()))
    state = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    state = {
        key.removeprefix("base_model.model."): value.detach().clone()
        for key, value in state.items()
        if any(f".{head}." in f".{key}" for head in heads)
    }
    base = model.unload()
    config = LoraConfig(
        task_type=trained.task_type,
        modules_to_save=heads or None,
        fan_in_fan_out=built_of_conv1d(base),
        lora_dropout=dropout,
        **lora_pattern({name: len(A) for name, (A, _) in factors.items()}, scales),
    )
    strange = sorted(set(factors) - {name for name, _ in base.named_modules()})
    if strange:
        raise UserError(f"there are factors for a layer {strange[0]!r}, which the model lacks")
    rebuilt = get_peft_model(base, config)
    layers = lora_layers(rebuilt)
    with torch.no_grad():
        for name, layer in layers.items():
            down, up = down_and_up(layer)
            A, B = factors[name]
            down.weight.copy_(A)
            up.weight.copy_(B)
        parameters = dict(rebuilt.get_base_model().named_parameters())
        for key, value in state.items():
            head, _, rest = _split_head(key, heads)
            parameters[f"{head}.modules_to_save.default.{rest}"].copy_(value)
    return rebuilt


def _split_head(key: str, heads: list[str]) -> tuple[str, str, str]:
    """``classifier.out_proj.weight`` -> (``classifier``, ``.``, ``out_proj.weight``)."""
    for head in sorted(heads, key=len, reverse=True):
        if key.startswith(f"{head}."):
            return head, ".", key[len(head) + 1 :]
    raise UserError(f"the trained head has a tensor {key!r} that belongs to none of {heads}")
