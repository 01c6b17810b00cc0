"""Perplexity against the definition, written out."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bilevel.errors import UserError
from experiments.metrics.perplexity import Surprise, perplexity, surprises
from tests.experiments import styled


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = styled.writer(tmp_path_factory.mktemp("writer"))
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def by_hand(model, tokenizer, text):
    """-log p of each token, one forward pass for each."""
    before, losses = [tokenizer.bos_token_id], []
    for token in tokenizer(text)["input_ids"]:
        logits = model(input_ids=torch.tensor([before])).logits[0, -1].double()
        losses.append(-torch.log_softmax(logits, 0)[token].item())
        before.append(token)
    return losses


def test_it_is_the_definition(loaded):
    model, tokenizer = loaded
    model.train()  # dropout must not count
    texts = ["the soup was good", "tea", "", "the lovely lamp was awful the door was bad"]
    found = surprises(model, tokenizer, texts)
    assert model.training
    model.eval()
    every = [by_hand(model, tokenizer, text) for text in texts]
    assert [pair.tokens for pair in found] == [4, 1, 0, 9]
    for pair, losses in zip(found, every, strict=True):
        assert pair.loss == pytest.approx(sum(losses), rel=1e-5)
    flat = [loss for losses in every for loss in losses]
    assert perplexity(found) == pytest.approx(math.exp(sum(flat) / 14), rel=1e-5)


def test_a_certain_and_a_uniform_model():
    assert perplexity([Surprise(0.0, 5)]) == 1
    assert perplexity([Surprise(3 * math.log(10), 3)]) == pytest.approx(10)
    assert perplexity([Surprise(0.0, 0)]) is None
    assert perplexity([]) is None


def test_without_a_token_of_the_beginning_the_end_stands_there(loaded):
    model, tokenizer = loaded
    other = styled.tokenizer()
    other.bos_token = None
    (found,) = surprises(model, other, ["tea"])
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[tokenizer.eos_token_id]])).logits[0, -1]
    expected = -torch.log_softmax(logits, 0)[tokenizer("tea")["input_ids"][0]]
    assert found.loss == pytest.approx(float(expected), rel=1e-5)
    other.eos_token = None
    with pytest.raises(UserError, match=r"token.*beginning"):
        surprises(model, other, ["tea"])


def test_a_text_longer_than_the_model(loaded):
    with pytest.raises(UserError, match=r"text 1 .*101.* 96"):
        surprises(*loaded, ["tea", "tea " * 100])
