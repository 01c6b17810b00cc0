"""Write text by a model: beam search over batches of prompts of like length."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from bilevel.distributed import each_once
from bilevel.evaluation import evaluating, matching_autocast
from bilevel.sharding import device_of, is_sharded
from experiments.answers import Decoding
from experiments.models.batching import EXAMPLES, batches

__all__ = ["generate"]

TOKENS = 128  # of a batch at most, for each example that it may have: few are alive at a time


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    decoding: Decoding,
    precision: AbstractContextManager[None] | None = None,
    batch_size: int = EXAMPLES,
) -> list[str]:
    """What the model writes after each prompt, in the prompts' order, without special tokens.

    Several processes share the batches, and each of them gets every text.
    Nothing depends on how the prompts are batched. What a model's own generation settings say of
    the beams, lengths and penalties does not count, ``decoding`` does.

    Args:
        model: a transformers or PEFT model that writes text; its training mode is put back.
        tokenizer: of the model.
        prompts: token ids.
        decoding: how.
        precision: an autocast context; None computes in the parameters' own precision.
        batch_size: prompts at once at most; of long ones fewer.
    """
    device = device_of(model)
    causal = not model.config.is_encoder_decoder
    written = [""] * len(prompts)
    room = [(len(prompt) + decoding.max_new_tokens) * decoding.beams for prompt in prompts]
    options = {
        "num_beams": decoding.beams,
        "max_new_tokens": decoding.max_new_tokens,
        "min_length": 0,
        "no_repeat_ngram_size": 0,
        "repetition_penalty": 1.0,
        "do_sample": False,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    if decoding.beams > 1:
        options |= {"length_penalty": decoding.length_penalty, "early_stopping": True}
    parts = batches(room, batch_size, TOKENS)
    if causal and isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        # PEFT counts padding as positions there.
        parts = (same for part in parts for same in _of_one_length(part, prompts))

    together = is_sharded(model)

    def texts(indices: list[int]) -> list[str]:
        # A causal model's answer goes on where its prompt ends. An encoder counts positions
        # from the left, padding or not (BART), and was trained with the padding on the right.
        batch = tokenizer.pad(
            {"input_ids": [prompts[i] for i in indices]},
            padding_side="left" if causal else "right",
            return_tensors="pt",
        ).to(device)
        start = batch["input_ids"].shape[1] if causal else 0
        tokens = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            logits_processor=_rules(decoding, start),
            synced_gpus=together,  # whoever is done writes on until all are
            **options,
        )
        return tokenizer.batch_decode(tokens[:, start:], skip_special_tokens=True)

    every = list(parts)
    with evaluating(model), precision or matching_autocast(model):
        for indices, found in zip(every, each_once(every, texts, together), strict=True):
            for index, text in zip(indices, found, strict=True):
                written[index] = text.strip()
    return written


def _of_one_length(indices: list[int], prompts: Sequence[list[int]]) -> list[list[int]]:
    """A batch parted into batches that need no padding."""
    found: dict[int, list[int]] = {}
    for index in indices:
        found.setdefault(len(prompts[index]), []).append(index)
    return list(found.values())


def _rules(decoding: Decoding, start: int) -> LogitsProcessorList:
    """The decoding's rules against repetition, which hold from the token ``start`` on."""
    rules: list[LogitsProcessor] = []
    if decoding.repetition_penalty != 1:
        rules.append(RepetitionPenaltyLogitsProcessor(decoding.repetition_penalty))
    if decoding.no_repeat_ngram:
        rules.append(NoRepeatNGramLogitsProcessor(decoding.no_repeat_ngram))
    return LogitsProcessorList(_Written(rule, start) for rule in rules)


class _Written(LogitsProcessor):
    """A rule for what is written alone, as in LoRA's code: names of the source may be copied.

    transformers holds a causal model's prompt, padding included, against what it writes.
    """

    def __init__(self, rule: LogitsProcessor, start: int) -> None:
        self.rule = rule
        self.start = start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        written = input_ids[:, self.start :]
        return self.rule(written, scores) if written.shape[1] else scores
