"""Prompt and prefix tuning: PEFT's models against the equations, and room for virtual tokens."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForSequenceClassification, ElectraConfig

from bilevel import UserError
from problems.prefix import PrefixTuning
from problems.prompt import PromptTuning
from tests.problems.jobs import SmallJob, collate, train


def two_texts() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A short text padded in a batch, and alone."""
    rows = [{"input_ids": [3, 4, 5], "labels": 0}, {"input_ids": [6, 7, 8, 9, 10, 11], "labels": 1}]
    return collate(rows), collate(rows[:1])


@pytest.mark.parametrize("method", [PromptTuning(virtual_tokens=4), PrefixTuning(virtual_tokens=4)])
@torch.no_grad()
def test_padding_changes_nothing(method) -> None:
    job = SmallJob()
    model = method.adapt(job, job.build_model()).eval()
    together, alone = two_texts()
    torch.testing.assert_close(
        model(**together).logits[:1], model(**alone).logits, atol=1e-6, rtol=0
    )


@torch.no_grad()
def test_prompts_stand_before_the_embedded_text() -> None:
    job = SmallJob()
    model = PromptTuning(virtual_tokens=4).adapt(job, job.build_model()).eval()
    plain = job.build_model().eval()
    batch = {k: v for k, v in two_texts()[1].items() if k != "labels"}
    P = model.prompt_encoder["default"].embedding.weight
    words = plain.get_input_embeddings()
    expected = plain(
        inputs_embeds=torch.cat([P[None], words(batch["input_ids"])], 1),
        attention_mask=torch.ones(1, 7, dtype=torch.long),
    ).logits
    torch.testing.assert_close(model(**batch).logits, expected, atol=1e-6, rtol=0)
    random = PromptTuning(virtual_tokens=4, init="random").adapt(job, job.build_model())
    other = random.prompt_encoder["default"].embedding.weight
    for rows, from_words in ((P, True), (other, False)):
        is_word = (rows[:, None] == words.weight[None]).all(-1).any(1)
        assert bool(is_word.all()) is from_words


@torch.no_grad()
def test_every_layer_attends_to_its_prefix() -> None:
    """BERT's layers by hand: keys and values [P; K], [P; V]; the text's positions follow."""
    job = SmallJob()
    model = PrefixTuning(virtual_tokens=4).adapt(job, job.build_model()).double().eval()
    plain = job.build_model().double().eval()
    ids = two_texts()[1]["input_ids"]
    P = model.prompt_encoder["default"].embedding.weight.view(4, 2, 2, 2, 8)  # layer, k/v, head
    e = plain.bert.embeddings
    x = e.LayerNorm(
        e.word_embeddings(ids)
        + e.token_type_embeddings(torch.zeros_like(ids))
        + e.position_embeddings(torch.arange(4, 7))[None]
    )
    for number, layer in enumerate(plain.bert.encoder.layer):
        own = layer.attention.self
        q, k, v = (f(x).view(1, 3, 2, 8).transpose(1, 2) for f in (own.query, own.key, own.value))
        k = torch.cat([P[:, number, 0].transpose(0, 1)[None], k], 2)
        v = torch.cat([P[:, number, 1].transpose(0, 1)[None], v], 2)
        context = torch.softmax(q @ k.transpose(-1, -2) / 8**0.5, -1) @ v
        x = layer.attention.output(context.transpose(1, 2).reshape(1, 3, 16), x)
        x = layer.output(layer.intermediate(x), x)
    expected = plain.classifier(plain.bert.pooler(x))
    found = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize("method", [PromptTuning(virtual_tokens=9), PrefixTuning(virtual_tokens=9)])
def test_texts_that_leave_no_room_are_told_with_the_way_out(method) -> None:
    job = SmallJob()  # 16 positions, texts of up to 8
    with pytest.raises(UserError, match=r"method.virtual_tokens=9.*16 positions.*at most 8"):
        train(method, job)


@pytest.mark.parametrize("method", [PromptTuning(virtual_tokens=8), PrefixTuning(virtual_tokens=8)])
def test_longer_test_texts_are_told_too(method) -> None:
    job = SmallJob()
    model = method.adapt(job, job.build_model())
    fits, too_long = torch.ones(1, 8, dtype=torch.long), torch.ones(1, 9, dtype=torch.long)
    model(input_ids=fits, attention_mask=fits)
    with pytest.raises(UserError, match=r"9 tokens.*task.max_length=8"):
        model(input_ids=too_long, attention_mask=too_long)


def test_embeddings_narrower_than_the_layers() -> None:
    """ELECTRA-small's: the prompt is as wide as the embeddings."""
    job = SmallJob()
    small = ElectraConfig(
        vocab_size=32,
        embedding_size=8,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
    )
    model = PromptTuning(virtual_tokens=4).adapt(
        job, AutoModelForSequenceClassification.from_config(small)
    )
    assert model.prompt_encoder["default"].embedding.weight.shape == (4, 8)
    assert model(**two_texts()[0]).loss.isfinite()


def test_prefix_tuning_refuses_label_smoothing_that_peft_would_leave_out() -> None:
    job = SmallJob(label_smoothing=0.1)
    with pytest.raises(UserError, match="smoothing"):
        train(PrefixTuning(), job)
