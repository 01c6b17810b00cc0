"""What EVA's start looks at: the examples that the factors are then trained on, never D_val."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from problems import AutoLoRA, ExampleWeights, PeftOptions, SaLoRABilevel, SourceWeights
from problems.common import starts
from tests.problems.jobs import SmallJob, make_data

EVA = PeftOptions(init_lora_weights="eva")


@pytest.fixture
def seen(monkeypatch) -> list[list[int]]:
    """The rows of each start, by their identity; nothing is computed of them."""
    found: list[list[int]] = []

    def listening(model, job, rows):
        found.append([id(row) for row in rows])

    monkeypatch.setattr(starts, "_explained_variance", listening)
    return found


@pytest.mark.parametrize(
    "method",
    [
        AutoLoRA(rank=2, peft=EVA),
        SaLoRABilevel(rank=2, peft=EVA, start=0.1, end=0.9),
        SourceWeights(rank=2, peft=EVA, trusted="a", split=0.5),
    ],
)
def test_of_two_levels_only_d_train_is_looked_at(method, seen):
    job = SmallJob(epochs=4, n=64)
    job.data = replace(job.data, sources=["ab"[i % 2] for i in range(64)])
    training = method.stages()[0].prepare(job, None)
    (looked,) = seen
    held = {id(row) for row in training.validation}
    assert held
    assert set(looked) == {id(row) for row in job.data.examples} - held


def test_a_validation_split_leaves_all_training_data(seen):
    job = SmallJob()
    job.data = replace(job.data, validation=make_data(16, seed=1).examples)
    AutoLoRA(rank=2, peft=EVA, split=None).search(job, None)
    assert seen == [[id(row) for row in job.data.examples]]


def test_dropped_examples_are_not_looked_at(seen):
    job = SmallJob()
    trusted = make_data(8, seed=1).examples
    job.data = replace(job.data, validation=trusted)
    method = ExampleWeights(rank=2, peft=EVA, drop=0.25)
    method.weighting(job, None)
    found = {
        "weights": torch.arange(48.0),
        "trainable_parameters": 0,
        "validation_loss": None,
    }
    method.retraining(job, found)
    first, second = seen
    assert first == [id(row) for row in job.data.examples]
    assert second == [id(row) for row in [*job.data.examples[12:], *trusted]]
