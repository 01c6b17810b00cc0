"""Losses of single examples add up to the task's loss, in every kind of task."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model

from bilevel.errors import UserError
from bilevel.labels import NO_LABEL
from experiments.answers import Decoding
from experiments.tasks.demo import Demo
from experiments.tasks.examples import TextExample
from experiments.tasks.kinds.label_sets import LabelSetData
from experiments.tasks.kinds.labelled import LabelledData
from experiments.tasks.kinds.tags import TaggedData
from experiments.tasks.kinds.text import TextData
from experiments.tasks.task import TaskData
from tests.experiments import writers

COMMON: dict[str, Any] = {"train": [], "tests": {"test": []}, "test_source": "test"}
COMMON |= {"max_length": 32}
generator = torch.Generator().manual_seed(0)


def labels_of(kind: str) -> torch.Tensor:
    if kind == "classes":
        return torch.tensor([0, 2, 1, 1])
    if kind == "number":
        return torch.tensor([0.5, 3.0, -1.0, 2.0])
    if kind == "labels":
        return torch.tensor([[0.0, 1, 1], [0, 0, 0], [1, 1, 1], [1, 0, 0]])
    tags = torch.randint(3, (4, 6), generator=generator)
    tags[0, 3:] = NO_LABEL
    tags[2, :5] = NO_LABEL
    return tags


def task_of(kind: str) -> TaskData:
    names = ("a", "b", "c")
    if kind == "classes":
        return LabelledData("own", metrics=("accuracy",), label_names=names, **COMMON)
    if kind == "number":
        return LabelledData("own", metrics=("pearson",), label_names=None, **COMMON)
    if kind == "labels":
        return LabelSetData("own", metrics=("micro_f1",), label_names=names, **COMMON)
    return TaggedData("own", metrics=("f1",), tag_names=names, **COMMON)


@pytest.mark.parametrize("kind", ["classes", "number", "labels", "tags"])
def test_classes_numbers_labels_and_tags(kind: str) -> None:
    task, labels = task_of(kind), labels_of(kind)
    shape = {"number": (4, 1), "tags": (4, 6, 3)}.get(kind, (4, 3))
    logits = torch.randn(shape, generator=generator)
    totals, terms = task.example_losses(SimpleNamespace(logits=logits), {"labels": labels})
    loss, count = task.losses(SimpleNamespace(logits=logits), {"labels": labels})
    assert totals.shape == terms.shape == (4,)
    assert float(totals.sum()) == pytest.approx(loss, rel=1e-12)
    assert int(terms.sum()) == count
    for i in range(4):
        one = SimpleNamespace(logits=logits[i : i + 1])
        alone, counted = task.losses(one, {"labels": labels[i : i + 1]})
        assert float(totals[i]) == pytest.approx(alone, rel=1e-12)
        assert int(terms[i]) == counted


@pytest.mark.parametrize("kind", ["gpt2", "virtual tokens", "bart", "t5"])
def test_text(kind: str) -> None:
    seq2seq = kind in ("bart", "t5")
    model = writers.model(kind if seq2seq else "gpt2").eval()
    if kind == "virtual tokens":
        options = {"num_virtual_tokens": 3, "token_dim": model.config.hidden_size}
        model = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", **options)).eval()
    examples = [TextExample("w1 w2", "w3 w4 w5 w6"), TextExample("w1", "w7")]
    if not seq2seq:  # one whose first token nothing stands before
        examples.append(TextExample("", "w9 w8"))
    task = TextData(
        "own", metrics=("bleu",), decoding=Decoding(max_new_tokens=4), separator="", **COMMON
    )
    tokenizer = writers.tokenizer()
    rows = task.tokenise(tokenizer, examples, seq2seq)
    collate = task.collator(tokenizer)
    with torch.no_grad():
        batch = collate(rows)
        totals, terms = task.example_losses(model(**batch), batch)
        loss, count = task.losses(model(**batch), batch)
        assert float(totals.sum()) == pytest.approx(loss, rel=1e-5)
        assert int(terms.sum()) == count
        for i, row in enumerate(rows):  # without padding
            single = collate([row])
            alone, counted = task.losses(model(**single), single)
            assert float(totals[i]) == pytest.approx(alone, rel=1e-4)
            assert int(terms[i]) == counted


def test_a_task_of_ones_own_that_does_not_say_is_refused() -> None:
    task = Demo(max_train=8).load()
    with pytest.raises(UserError, match="example_losses"):
        TaskData.example_losses(task, SimpleNamespace(), {})


@pytest.mark.parametrize("kind", ["classes", "number", "labels", "tags"])
def test_no_constant_answer_is_better_than_the_best(kind: str) -> None:
    """Against gradient descent on one row of logits for all, through the task's own losses."""
    task, labels = task_of(kind), labels_of(kind)
    rows = [{"labels": row.tolist()} for row in labels]
    found = task.constant_losses(rows)
    assert found is not None
    assert found.shape == (4,)
    answer = torch.zeros(1 if kind == "number" else 3, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([answer], max_iter=200, line_search_fn="strong_wolfe")

    def totals() -> torch.Tensor:
        logits = answer.expand(*labels.shape, 3) if kind == "tags" else answer.expand(4, -1)
        return task.example_losses(SimpleNamespace(logits=logits), {"labels": labels})[0]

    def closure() -> torch.Tensor:
        search.zero_grad()
        loss = totals().sum()
        loss.backward()
        return loss

    search.step(closure)
    assert found == pytest.approx(totals().detach().numpy(), abs=1e-4)
    assert found.sum() <= float(totals().sum()) + 1e-9


def test_text_has_no_constant_answer() -> None:
    task = TextData(
        "own", metrics=("bleu",), decoding=Decoding(max_new_tokens=4), separator="", **COMMON
    )
    assert task.constant_losses([{"labels": [1, 2]}]) is None
