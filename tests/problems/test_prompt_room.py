"""Virtual tokens that a model has no room for, and models that prefixes are for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForSequenceClassification, DistilBertConfig, GPT2Config

from bilevel import UserError
from problems.prefix import PrefixTuning
from problems.prompt import PromptTuning
from tests.problems.jobs import SmallJob, collate, train


@pytest.mark.parametrize("method", [PromptTuning, PrefixTuning])
@pytest.mark.parametrize("tokens", [9, 100_000])
def test_no_length_is_advised_that_cannot_be_given(method, tokens: int) -> None:
    """16 positions, texts of 8; the least task.max_length is 8."""
    with pytest.raises(UserError, match=r"16 positions.*at most 8"):
        train(method(virtual_tokens=tokens), SmallJob())


def test_a_text_as_long_as_the_model_leaves_fewer_tokens_as_the_only_way() -> None:
    job = SmallJob()
    model = PromptTuning(virtual_tokens=8).adapt(job, job.build_model())
    ids = torch.ones(1, 16, dtype=torch.long)
    with pytest.raises(UserError, match=r"task.max_length=8.*fewer"):
        model(input_ids=ids, attention_mask=ids)


@pytest.mark.parametrize("method", [PromptTuning(virtual_tokens=8), PrefixTuning(virtual_tokens=8)])
def test_a_stream_whose_lengths_are_not_known_is_checked_batch_by_batch(method) -> None:
    job = SmallJob()
    job.data = replace(job.data, lengths=())
    model = method.adapt(job, job.build_model())
    too_long = torch.ones(1, 9, dtype=torch.long)
    with pytest.raises(UserError, match=r"9 tokens.*16 positions"):
        model(input_ids=too_long, attention_mask=too_long)


class OtherJob(SmallJob):
    """With a model of another architecture."""

    def __init__(self, config, head: str, **settings) -> None:
        super().__init__(**settings)
        self.config = config
        self.head_modules = [head]

    def build_model(self):
        torch.manual_seed(0)
        return AutoModelForSequenceClassification.from_config(self.config)


def test_prefixes_suit_gpt2_padded_texts_too() -> None:
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 32, "n_positions": 32}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    # unlike BERT it computes its loss itself, so labels can be smoothed
    job = OtherJob(GPT2Config(**sizes, **tokens), "score", label_smoothing=0.1)
    model = PrefixTuning(virtual_tokens=4).adapt(job, job.build_model()).eval()
    rows = [{"input_ids": [3, 4, 5], "labels": 0}, {"input_ids": [6, 7, 8, 9, 10], "labels": 1}]
    with torch.no_grad():
        alone = model(**collate(rows[:1])).logits
        together = model(**collate(rows)).logits[:1]
        model.prompt_encoder["default"].embedding.weight.normal_(std=3.0)
        moved = model(**collate(rows[:1])).logits
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)
    assert float((moved - alone).abs().max()) > 1e-3


def test_models_that_take_no_prefix_are_named_with_those_that_do() -> None:
    sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "vocab_size": 32}
    with pytest.raises(UserError, match=r"DistilBert.*BERT, RoBERTa"):
        train(PrefixTuning(), OtherJob(DistilBertConfig(**sizes), "classifier"))
