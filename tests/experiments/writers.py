"""Random models that write text, and the words w0, w1, ... that they know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from tests.experiments.word_tokens import word_tokenizer

WORDS = 12
PAD, BEGIN, END, UNKNOWN = range(4)
POSITIONS = 64
SIZE = WORDS + 4
# Far from flat, so that rounding decides nothing.
SPREAD = 0.3
ENDS = {"pad_token_id": PAD, "bos_token_id": BEGIN, "eos_token_id": END}


def tokenizer(pad: str = "<pad>") -> PreTrainedTokenizerFast:
    """Of whole words; ``pad="</s>"`` pads by the end of text, as GPT-2 must."""
    words = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{i}" for i in range(WORDS))]
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return word_tokenizer(words, POSITIONS, pad_token=pad, **special)


def gpt2(vocabulary: int = SIZE, positions: int = POSITIONS) -> GPT2LMHeadModel:
    """A random GPT-2 of two layers of 16."""
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocabulary,
            n_positions=positions,
            n_embd=16,
            n_layer=2,
            n_head=2,
            initializer_range=SPREAD,
            **ENDS,
        )
    )


def model(kind: str, seed: int = 0) -> Any:
    """A "gpt2", "bart" or "t5" of two layers of 16."""
    torch.manual_seed(seed)
    if kind == "gpt2":
        made: Any = gpt2()
    elif kind == "bart":
        made = BartForConditionalGeneration(
            BartConfig(
                vocab_size=SIZE,
                d_model=16,
                encoder_layers=2,
                decoder_layers=2,
                encoder_attention_heads=2,
                decoder_attention_heads=2,
                encoder_ffn_dim=16,
                decoder_ffn_dim=16,
                max_position_embeddings=POSITIONS,
                decoder_start_token_id=END,
                forced_eos_token_id=END,
                init_std=SPREAD,
                **ENDS,
            )
        )
    else:
        made = T5ForConditionalGeneration(
            T5Config(
                vocab_size=SIZE,
                d_model=16,
                d_kv=8,
                d_ff=16,
                num_layers=2,
                num_heads=2,
                decoder_start_token_id=PAD,
                initializer_factor=2.0,
                **ENDS,
            )
        )
    return made.eval()


def folder(path: Path, kind: str) -> Path:
    """A model with its tokenizer as files."""
    model(kind).save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path
