"""train.warmup_steps: the learning rates of every method's schedules, in all stages and levels."""

from __future__ import annotations

import logging

import pytest
import torch

from problems.adalora import AdaLoRA
from problems.autolora import AutoLoRA
from problems.bidora import BiDoRA
from problems.bilora import BiLoRA
from problems.common import OptimizerSettings, optimizer_and_scheduler
from problems.delta_lora.method import DeltaLoRA
from problems.dylora import DyLoRA
from problems.full import FullFineTuning
from problems.lora import LoRA
from problems.salora import SaLoRA, SaLoRABilevel
from tests.problems.jobs import SmallJob, train
from tests.problems.resuming import assert_resumes_exactly

GATED = {"rank": 2, "start": 0.1, "end": 0.9}


def rates(settings: OptimizerSettings, steps: int, warmup_steps: int | None) -> list[float]:
    """The learning rate at every step."""
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    optimizer, schedule = optimizer_and_scheduler(settings, parameters, steps, 1.0, warmup_steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_the_rate_rises_in_the_steps_given_and_falls_in_the_others() -> None:
    settings = OptimizerSettings(warmup_ratio=0.5)
    assert rates(settings, 8, None) == [0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25]
    assert rates(settings, 8, 2) == pytest.approx([0, 1 / 2, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    assert rates(settings, 4, 0) == [1, 0.75, 0.5, 0.25]


def test_a_constant_rate_has_no_warm_up_unless_its_schedule_says_so() -> None:
    assert rates(OptimizerSettings(schedule="constant"), 4, 2) == [1, 1, 1, 1]
    assert rates(OptimizerSettings(schedule="constant_with_warmup"), 4, 2) == [0, 0.5, 1, 1]


def test_a_level_without_warm_up_gets_none() -> None:
    assert rates(OptimizerSettings(warmup_ratio=0.0), 4, 2) == [1, 0.75, 0.5, 0.25]


def test_a_warm_up_longer_than_the_stage_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert rates(OptimizerSettings(), 4, 8) == [0, 1 / 8, 2 / 8, 3 / 8]
    assert "train.warmup_steps=8 are not less than the 4 steps" in caplog.text


@pytest.mark.parametrize(
    "method",
    [
        *(LoRA(rank=2), DyLoRA(rank=2), DeltaLoRA(rank=2), FullFineTuning()),
        *(AdaLoRA(rank=2), AutoLoRA(rank=2), BiLoRA(rank=2), BiDoRA(rank=2, retrain=True)),
        *(SaLoRA(**GATED), SaLoRABilevel(**GATED)),
    ],
    ids=lambda method: type(method).__name__,
)
def test_every_stage_has_it(method) -> None:
    job = SmallJob(warmup_steps=3, epochs=2)
    train(method, job)
    for run in job.runs:
        (lower,) = (p for p in run["problems"] if p.name == "lower")
        factor = lower.scheduler.lr_lambdas[0]
        assert [factor(step) for step in range(4)] == [0, 1 / 3, 2 / 3, 1]
    assert len(job.runs) == (2 if isinstance(method, (AutoLoRA, BiDoRA)) else 1)


def test_the_upper_level_has_it_too() -> None:
    job = SmallJob(warmup_steps=3, epochs=2)
    train(BiLoRA(rank=2), job)
    (upper,) = (p for p in job.runs[0]["problems"] if p.name == "upper")
    assert [upper.scheduler.lr_lambdas[0](step) for step in range(4)] == [0, 1 / 3, 2 / 3, 1]


def test_delta_loras_update_starts_after_it() -> None:
    job = SmallJob(warmup_steps=3, epochs=2)
    train(DeltaLoRA(rank=2), job)
    assert job.runs[0]["problems"][0].start_step == 3


def test_it_resumes_exactly(tmp_path) -> None:
    method = LoRA(rank=2)
    assert_resumes_exactly(method, tmp_path / "state.safetensors", 2, epochs=2, warmup_steps=4)
