"""Text written by a model: beam search over batches of prompts of like length."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from experiments.batching import batches, evaluating
from experiments.memory import matching_autocast
from experiments.tasks.text import Decoding

__all__ = ["generate"]


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    decoding: Decoding,
    precision: AbstractContextManager[None] | None = None,
) -> list[str]:
    """What the model writes after each prompt, in the prompts' order, without special tokens.

    Args:
        model: a transformers or PEFT model that writes text; its training mode is put back.
        tokenizer: of the model.
        prompts: token ids.
        decoding: how.
        precision: an autocast context; None computes in the parameters' own precision.
    """
    device = next(model.parameters()).device
    written = [""] * len(prompts)
    room = [(len(prompt) + decoding.max_new_tokens) * decoding.beams for prompt in prompts]
    options = {
        "num_beams": decoding.beams,
        "max_new_tokens": decoding.max_new_tokens,
        "no_repeat_ngram_size": decoding.no_repeat_ngram,
        "repetition_penalty": decoding.repetition_penalty,
        "do_sample": False,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    if decoding.beams > 1:
        options |= {"length_penalty": decoding.length_penalty, "early_stopping": True}
    with evaluating(model), precision or matching_autocast(model):
        for indices in batches(room):
            # An answer goes on where its prompt ends, so the padding is on the left.
            batch = tokenizer.pad(
                {"input_ids": [prompts[i] for i in indices]},
                padding_side="left",
                return_tensors="pt",
            ).to(device)
            tokens = model.generate(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **options
            )
            if not model.config.is_encoder_decoder:
                tokens = tokens[:, batch["input_ids"].shape[1] :]
            for index, text in zip(
                indices, tokenizer.batch_decode(tokens, skip_special_tokens=True), strict=True
            ):
                written[index] = text.strip()
    return written
