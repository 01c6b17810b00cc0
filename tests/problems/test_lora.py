"""LoRA as a one-problem graph: equal to a plain PyTorch loop over the same batches."""

from __future__ import annotations

import pytest
import torch
from transformers import get_scheduler

from bilevel import UserError
from problems import LoRA, OptimizerSettings
from problems.common.method import add_lora, loader, trainable
from problems.common.optimizer_settings import SCHEDULES, optimizer_and_scheduler
from tests.problems.jobs import SmallJob


def test_the_engine_takes_the_steps_of_a_plain_loop():
    job = SmallJob(epochs=2)
    method = LoRA(rank=4, optimizer=OptimizerSettings(lr=1e-2, weight_decay=0.1))
    outcome = method.run(job)

    plain = SmallJob(epochs=2)
    torch.manual_seed(0)
    model = add_lora(plain, plain.build_model(), r=4, lora_alpha=16.0, lora_dropout=0.0)
    model.train()
    parameters = trainable(model)
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1)
    scheduler = get_scheduler("linear", optimizer, num_warmup_steps=0, num_training_steps=12)
    batches = loader(plain)
    for _ in range(2):
        for batch in batches:
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
    ours = dict(outcome.model.named_parameters())
    for name, p in model.named_parameters():
        torch.testing.assert_close(ours[name], p, rtol=0, atol=0)


def test_the_outcome_tells_ranks_and_parameters():
    outcome = LoRA(rank=3).run(SmallJob())
    assert set(outcome.ranks.values()) == {3}
    assert outcome.trainable_parameters == 4 * 3 * (16 + 16) + 16 * 2 + 2
    assert outcome.split == {"train": 48}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "lion"}, "optimizer 'lion'; allowed: adamw, adam, sgd"),
        ({"schedule": "reduce_lr_on_plateau"}, "schedule 'reduce_lr_on_plateau'; allowed: linear"),
        ({"lr": 0.0}, "lr must be more than 0"),
        ({"betas": (0.9, 1.0)}, r"betas must be in \[0, 1\), got \[0.9, 1.0\]"),
        ({"weight_decay": -0.1}, "weight_decay must be 0 or more"),
        ({"warmup_ratio": 1.5}, "warmup_ratio must be in"),
    ],
)
def test_wrong_optimizer_settings_are_named(settings, words):
    with pytest.raises(UserError, match=words):
        OptimizerSettings(**settings)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_can_be_built_and_stepped(schedule):
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    settings = OptimizerSettings(schedule=schedule, lr=1e-3, warmup_ratio=0.5)
    optimizer, scheduler = optimizer_and_scheduler(settings, parameters, 4, None)
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] <= 1e-3


def test_a_learning_rate_is_needed():
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    with pytest.raises(UserError, match="no learning rate"):
        optimizer_and_scheduler(OptimizerSettings(), parameters, 10, None)
