"""Measure how surprising texts are to a causal language model: perplexity per token."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from bilevel.errors import UserError
from bilevel.evaluation import evaluating, matching_autocast
from bilevel.labels import NO_LABEL
from bilevel.precision import in_float64
from bilevel.sharding import device_of
from experiments.models.batching import batches

__all__ = ["SETTINGS", "Surprise", "perplexity", "surprises"]

SETTINGS = (
    "exp of the mean negative log-likelihood of a token, over all tokens of all texts; each text "
    "by itself after the token of the beginning, its end not counted; the model's own tokens"
)


class Surprise(NamedTuple):
    """The summed negative log-likelihood (nats) of a text, and of how many tokens it is."""

    loss: float
    tokens: int


@torch.no_grad()
def surprises(model: Any, tokenizer: Any, texts: Sequence[str]) -> list[Surprise]:
    """The surprise of each text, in their order; (0, 0) of an empty one.

    Args:
        model: a causal transformers model; its training mode is put back.
        tokenizer: of the model; without a token of the beginning its end of text stands there.
        texts: n of them.

    Raises:
        UserError: the model has a decoder apart, the tokenizer has neither token, or a text is
            longer than the model's positions.
    """
    if model.config.is_encoder_decoder:
        raise UserError(
            f"perplexity needs a causal language model, and {type(model).__name__} has an encoder"
        )
    begin = tokenizer.bos_token_id
    begin = tokenizer.eos_token_id if begin is None else begin
    if begin is None:
        raise UserError("perplexity needs a tokenizer with a token of the beginning or the end")
    rows = [[begin, *tokenizer(text, add_special_tokens=False)["input_ids"]] for text in texts]
    for number, row in enumerate(rows):
        if len(row) > tokenizer.model_max_length:
            raise UserError(
                f"text {number} has {len(row)} tokens, and the language model that its perplexity "
                f"is asked of has {tokenizer.model_max_length} positions"
            )
    device = device_of(model)
    found = [Surprise(0.0, 0)] * len(rows)
    with evaluating(model), matching_autocast(model):
        for indices in batches([len(row) for row in rows]):
            longest = max(len(rows[i]) for i in indices)
            if longest == 1:  # empty texts alone
                continue
            padded = torch.full((len(indices), longest), begin, device=device)
            labels = torch.full((len(indices), longest), NO_LABEL, device=device)
            mask = torch.zeros((len(indices), longest), dtype=torch.long, device=device)
            for place, i in enumerate(indices):
                tokens = torch.tensor(rows[i], device=device)
                padded[place, : len(tokens)] = tokens
                labels[place, 1 : len(tokens)] = tokens[1:]
                mask[place, : len(tokens)] = 1
            logits = model(input_ids=padded, attention_mask=mask).logits[:, :-1].float()
            losses = functional.cross_entropy(
                logits.transpose(1, 2), labels[:, 1:], ignore_index=NO_LABEL, reduction="none"
            )
            for place, i in enumerate(indices):
                found[i] = Surprise(float(in_float64(losses[place]).sum()), len(rows[i]) - 1)
    return found


def perplexity(found: Iterable[Surprise]) -> float | None:
    """The perplexity of texts together; None where they have no token."""
    pairs = list(found)
    tokens = sum(pair.tokens for pair in pairs)
    if tokens == 0:
        return None
    mean = sum(pair.loss for pair in pairs) / tokens
    return math.exp(mean) if mean < 700 else math.inf  # float's end
