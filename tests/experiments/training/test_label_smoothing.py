"""Smoothed labels: the loss in training against its equation, plain in evaluation."""

import pytest
import torch
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, BertConfig

from bilevel.errors import UserError
from experiments.answers import CLASSES, NUMBER, TEXT, Answers
from experiments.training.label_smoothing import check_smoothing, smooth_labels
from tests.experiments import writers

EPSILON = 0.1
IDS = torch.tensor([[5, 6, 7, 8, 9, 2], [10, 11, 12, 13, 2, 0]])
LABELS = torch.tensor([[-100, -100, 7, 8, 9, 2], [-100, -100, -100, 13, 2, -100]])


def smoothed(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(1 - eps) (-log p(y)) + eps mean_c (-log p(c)), a mean over what has a label."""
    p = torch.log_softmax(logits.reshape(-1, logits.shape[-1]), -1)
    y = labels.reshape(-1)
    p, y = p[y != -100], y[y != -100]
    of_label = p[torch.arange(len(y)), y]
    return -((1 - EPSILON) * of_label + EPSILON * p.mean(-1)).mean()


@torch.no_grad()
def check(model, labels, expected) -> None:
    """In training the loss is as expected of the logits, in evaluation it is transformers' own."""
    plain = model(input_ids=IDS, labels=labels)
    model.train()
    found = model(input_ids=IDS, labels=labels)
    torch.testing.assert_close(found.logits, plain.logits, rtol=0, atol=1e-12)
    # the loss is in float32, as transformers' own
    torch.testing.assert_close(found.loss, expected(found.logits).float(), rtol=1e-6, atol=0)
    assert abs(float(found.loss - plain.loss)) > 1e-3


def without_dropout(model):
    """In float64; the same in training and evaluation, but for the loss."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):  # of BART and T5
            module.dropout = 0.0
    return model.double().eval()


def test_classes():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 16}
    config = BertConfig(**sizes, intermediate_size=16, num_labels=3, initializer_range=0.5)
    model = without_dropout(AutoModelForSequenceClassification.from_config(config))
    smooth_labels(model, EPSILON, Answers(CLASSES, 3))
    labels = torch.tensor([2, 0])
    check(model, labels, lambda logits: smoothed(logits, labels))


@pytest.mark.parametrize("kind", ["gpt2", "bart", "t5"])
def test_the_next_token(kind):
    model = without_dropout(writers.model(kind))
    smooth_labels(model, EPSILON, Answers(TEXT, 0))
    if model.config.is_encoder_decoder:
        check(model, LABELS, lambda logits: smoothed(logits, LABELS))
    else:
        check(model, LABELS, lambda logits: smoothed(logits[:, :-1], LABELS[:, 1:]))


@pytest.mark.parametrize("virtual", [PromptTuningConfig, PrefixTuningConfig])
def test_behind_virtual_tokens(virtual):
    base = writers.model("gpt2")
    smooth_labels(base, EPSILON, Answers(TEXT, 0))
    torch.manual_seed(1)
    model = get_peft_model(base, virtual(task_type="CAUSAL_LM", num_virtual_tokens=3))
    model = without_dropout(model)
    check(model, LABELS, lambda logits: smoothed(logits[:, -6:-1], LABELS[:, 1:]))


def test_numbers_have_no_classes():
    check_smoothing(0.0, Answers(NUMBER, 1))
    with pytest.raises(UserError, match="a task of numbers has no classes to smooth, use 0"):
        check_smoothing(EPSILON, Answers(NUMBER, 1))
