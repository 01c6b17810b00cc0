"""Train the demo's two models: what their pretraining has in common."""

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from tqdm import tqdm
from transformers import (
    BatchEncoding,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    get_linear_schedule_with_warmup,
)

from bilevel.data import ResumableLoader

__all__ = ["LEARNING_RATE", "command_line", "train", "word_tokenizer"]

LEARNING_RATE = 1e-3


def word_tokenizer(words: set[str], special: list[str]) -> Tokenizer:
    """Return a tokenizer with one token for each word, in lower case, after the special ones."""
    vocabulary = {word: number for number, word in enumerate([*special, *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    encoded: list[list[int]],
    loss_of: Callable[[BatchEncoding], torch.Tensor],
    progress: Callable[[], dict[str, str]],
    *,
    steps: int,
    batch_size: int,
    seed: int,
) -> None:
    """Train for so many steps on the CPU, in float32.

    Args:
        model: is changed.
        tokenizer: pads the batches.
        encoded: the texts as token numbers.
        loss_of: the loss of a padded batch.
        progress: what to show now and then, beside the loss.
        steps: optimiser steps; passes over the texts follow one another.
        batch_size: texts a step.
        seed: decides the order of the texts.
    """
    loader = ResumableLoader(
        encoded,
        batch_size,
        lambda ids: tokenizer.pad({"input_ids": ids}, return_tensors="pt"),
        seed=seed,
        lengths=[len(ids) for ids in encoded],
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    scheduler = get_linear_schedule_with_warmup(optimizer, steps // 20, steps)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    bar = tqdm(itertools.islice(batches, steps), total=steps, desc="pretraining")
    for step, batch in enumerate(bar):
        model.train()
        loss = loss_of(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if step % 250 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}", **progress())
    model.eval()


def command_line(doc: str | None, folder: Path, steps: int) -> argparse.Namespace:
    """Read the options --steps, --batch-size, --seed and --out.

    Args:
        doc: the program's docstring, whose first line --help shows.
        folder: where the model goes if --out is not given.
        steps: if --steps is not given.
    """
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0] if doc else None)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=folder)
    return parser.parse_args()
