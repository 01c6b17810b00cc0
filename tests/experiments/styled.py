"""A made-up world of good and bad things: models that know its words, and its files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from tests.experiments import writers
from tests.experiments.word_tokens import word_tokenizer

THINGS = ("soup", "tea", "room", "staff", "view", "bed", "lamp", "door")
SIDES = (("bad", "awful"), ("good", "lovely"))  # negative, positive
FRAME = ("Do", "what", "task", "says", "with", "text", "below", "Task:", "Text:", "Answer:", "say")
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
POSITIONS = 96


def sentences() -> list[dict]:
    """Rows as Yelp's test file has them, half of each label."""
    return [
        {
            "text": f"the {thing} was {word}",
            "label": label,
            "human_reference": f"the {thing} was {SIDES[1 - label][i]}",
        }
        for thing in THINGS
        for label in (0, 1)
        for i, word in enumerate(SIDES[label])
    ]


def instructions(rows: int = 24) -> list[dict]:
    """Rows to tune on, every third without an input."""
    found = []
    for i in range(rows):
        thing = THINGS[i % len(THINGS)]
        given = "" if i % 3 == 0 else f"the {thing} was bad {i}"
        found.append({"instruction": f"say {thing} {i}", "input": given, "output": f"the {thing}"})
    return found


def write(path: Path, rows: Sequence[dict]) -> Path:
    """A json or jsonl file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row) for row in rows]
    text = f"[{','.join(lines)}]" if path.suffix == ".json" else "\n".join(lines)
    path.write_text(text, encoding="utf-8")
    return path


def tokenizer() -> PreTrainedTokenizerFast:
    """Of whole words."""
    words = ["the", "was", *THINGS, *SIDES[0], *SIDES[1], *FRAME]
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIAL, strict=True))
    return word_tokenizer(list(dict.fromkeys([*SPECIAL, *words])), POSITIONS, **names)


def writer(folder: Path) -> Path:
    """A random two-layer GPT-2."""
    torch.manual_seed(0)
    made = tokenizer()
    writers.gpt2(len(made), POSITIONS).save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def reader(folder: Path) -> Path:
    """A random two-layer BERT that learns fast: it has no dropout, and weights of some size."""
    torch.manual_seed(0)
    made = tokenizer()
    made.backend_tokenizer.post_processor = processors.BertProcessing(("</s>", 2), ("<s>", 1))
    config = BertConfig(
        vocab_size=len(made),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=POSITIONS,
        initializer_range=0.2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=0,
    )
    BertModel(config).save_pretrained(folder)
    made.save_pretrained(folder)
    return folder
