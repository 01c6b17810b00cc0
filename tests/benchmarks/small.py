"""A model that costs nothing, in the place of MiniLM's shape, and a benchmark's printed table."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import betty.logging
import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig


def small_model(attention: str = "sdpa", dropout: float = 0.1) -> Any:
    """As ``benchmarks.common.base_model``, but for its sizes."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return AutoModelForSequenceClassification.from_config(config, attn_implementation=attention)


def table(text: str) -> list[list[str]]:
    """The cells of a printed table, its head first, without the rule."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[x.strip() for x in line.strip("|").split("|")] for line in lines if "---" not in line]


@contextmanager
def level_kept(logger: logging.Logger) -> Iterator[None]:
    """What a program says of a logger holds for the program."""
    level = logger.level
    try:
        yield
    finally:
        logger.setLevel(level)


def started(
    name: str,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> str:
    """What ``python -m benchmarks.NAME WORDS`` prints."""
    monkeypatch.setattr(sys, "argv", [name, *words])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    with level_kept(betty.logging.get_logger()):
        importlib.import_module(f"benchmarks.{name}").main()
    return capsys.readouterr().out
