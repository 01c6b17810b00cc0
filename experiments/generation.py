"""Text written by a model: beam search over batches of prompts of like length."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from peft import PeftModel

from bilevel.errors import UserError
from experiments.batching import batches, evaluating
from experiments.memory import matching_autocast
from experiments.tasks.text import Decoding

__all__ = ["check_room", "generate"]


def check_room(
    prompts: Sequence[list[int]],
    decoding: Decoding,
    virtual_tokens: int,
    positions: int | None,
    seq2seq: bool,
) -> None:
    """Refuse, before anything is trained, answers that would run out of the model's positions.

    Args:
        prompts: token ids; without virtual tokens the task has seen to it that they fit.
        decoding: how long an answer may be.
        virtual_tokens: that a method puts before each prompt.
        positions: that the model has; None without a limit.
        seq2seq: answers have positions of their own.

    Raises:
        UserError: a prompt is too long.
    """
    longest = max((len(prompt) for prompt in prompts), default=0)
    answer = 0 if seq2seq else decoding.max_new_tokens
    if virtual_tokens and positions is not None and longest + answer + virtual_tokens > positions:
        raise UserError(
            f"method.virtual_tokens={virtual_tokens}, a source of {longest} tokens and an answer "
            f"of up to {answer} exceed the model's {positions} positions: use fewer virtual "
            "tokens, or a smaller task.max_length or task.decoding.max_new_tokens"
        )


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
    seq2seq = model.config.is_encoder_decoder
    parts = batches(room)
    if not seq2seq and isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        # PEFT counts padding as positions there.
        parts = (same for part in parts for same in _of_one_length(part, prompts))
    with evaluating(model), precision or matching_autocast(model):
        for indices in parts:
            # An answer goes on where its prompt ends, so the padding is before it; but an encoder
            # counts positions from its first token, so there it is behind, as in training.
            batch = tokenizer.pad(
                {"input_ids": [prompts[i] for i in indices]},
                padding_side="right" if seq2seq else "left",
                return_tensors="pt",
            ).to(device)
            tokens = model.generate(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **options
            )
            if not seq2seq:
                tokens = tokens[:, batch["input_ids"].shape[1] :]
            for index, text in zip(
                indices, tokenizer.batch_decode(tokens, skip_special_tokens=True), strict=True
            ):
                written[index] = text.strip()
    return written


def _of_one_length(indices: list[int], prompts: Sequence[list[int]]) -> list[list[int]]:
    """A batch parted into batches that need no padding."""
    found: dict[int, list[int]] = {}
    for index in indices:
        found.setdefault(len(prompts[index]), []).append(index)
    return list(found.values())
