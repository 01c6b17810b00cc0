"""Models for answers in a text: labels in, logits out, and saved as transformers' own."""

import copy
from pathlib import Path

import torch
from transformers import AutoModelForQuestionAnswering

from experiments.answers import SPANS, Answers
from experiments.models.spec import ModelSpec


def test_the_loss_and_the_logits_are_transformers_own(tiny: Path, tmp_path: Path) -> None:
    loaded = ModelSpec("x", pretrained=str(tiny)).load(Answers(SPANS, 2), 0)
    assert loaded.head_modules == ["qa_outputs"]
    model = copy.deepcopy(loaded.model).double()
    ids = torch.arange(5, 17).view(2, 6)
    types = torch.tensor([[0, 0, 1, 1, 1, 1]] * 2)
    labels = torch.tensor([[2, 4], [3, 3]])
    found = model(input_ids=ids, token_type_ids=types, labels=labels, first=labels, offsets=labels)
    assert found.logits.shape == (2, 6, 2)
    model.save_pretrained(tmp_path)
    stock = AutoModelForQuestionAnswering.from_pretrained(tmp_path, dtype=torch.float64).eval()
    places = {"start_positions": labels[:, 0], "end_positions": labels[:, 1]}
    expected = stock(input_ids=ids, token_type_ids=types, **places)
    assert stock.config.architectures == ["BertForQuestionAnswering"]
    torch.testing.assert_close(found.loss, expected.loss, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.logits[..., 1], expected.end_logits, rtol=0, atol=1e-12)
    # a window that says nothing counts for nothing, and a batch of these has no loss
    partly = model(input_ids=ids, token_type_ids=types, labels=torch.tensor([[2, 4], [-100] * 2]))
    one = stock(
        input_ids=ids[:1], token_type_ids=types[:1], **{k: v[:1] for k, v in places.items()}
    )
    torch.testing.assert_close(partly.loss, one.loss, rtol=0, atol=1e-12)
    nothing = model(input_ids=ids, labels=torch.full((2, 2), -100)).loss
    assert float(nothing) == 0.0
    nothing.backward()
