"""What two-level methods share: the data of each side, and how long they train."""

from __future__ import annotations

import dataclasses

import pytest

from bilevel import UserError
from problems.autolora import AutoLoRA
from problems.bidora import BiDoRA
from problems.bilora import BiLoRA
from problems.lora import LoRA
from tests.problems.jobs import SmallJob, make_data, train

SINGLE_STAGE = [BiLoRA, BiDoRA]


@pytest.mark.parametrize("method", SINGLE_STAGE)
def test_the_split_is_disjoint_and_complete_and_there_is_one_stage(method):
    job = SmallJob(n=50)
    outcome = train(method(rank=2, split=0.8), job)
    assert job.stages == ["train"]
    assert outcome.split == {"train": 40, "validation": 10}
    lower, upper = job.runs[0]["problems"]
    first, second = (set(p.train_data_loader[0].indices) for p in (lower, upper))
    assert not first & second
    assert first | second == set(range(50))
    assert job.runs[0]["validation"] == [job.data.examples[i] for i in sorted(second)]
    assert outcome.validation_loss == 0.5


@pytest.mark.parametrize("method", SINGLE_STAGE)
@pytest.mark.parametrize("T1", [1, 2])
def test_the_lower_level_takes_as_many_steps_as_lora(method, T1):
    plain = SmallJob(n=64, epochs=3)
    train(LoRA(rank=2), plain)
    job = SmallJob(n=64, epochs=3)
    train(method(rank=2, unroll_steps=T1, upper_steps=2), job)
    lower, upper = job.runs[0]["problems"]
    assert lower.count == plain.runs[0]["problems"][0].count == 24
    assert upper.count == 2 * 24 // T1
    for problem in (lower, upper):
        assert problem.optimizer.param_groups[0]["lr"] == 0.0, "the schedule ends with the stage"


@pytest.mark.parametrize(("T1", "warmup", "skipped"), [(1, 6, 6), (2, 4, 2), (2, 5, 2), (3, 2, 0)])
def test_after_a_warm_up_the_upper_schedule_ends_with_the_stage_too(T1, warmup, skipped):
    """No upper step follows a window that ends within the warm-up, so its schedule is shorter."""
    job = SmallJob(n=64, epochs=3)
    train(BiLoRA(rank=2, unroll_steps=T1, upper_steps=2, warmup_steps=warmup), job)
    _, upper = job.runs[0]["problems"]
    assert upper.count == 2 * (job.runs[0]["steps"] - skipped)
    assert upper.optimizer.param_groups[0]["lr"] == 0.0
    assert upper.scheduler.lr_lambdas[0](upper.count - 1) > 0.0, "it ended too early"


@pytest.mark.parametrize("method", [*SINGLE_STAGE, AutoLoRA])
def test_without_a_split_the_tasks_own_validation_examples_are_the_upper_levels(method):
    job = SmallJob(n=32)
    other = make_data(24, seed=9).examples
    job.data = dataclasses.replace(job.data, validation=other)
    outcome = train(method(rank=2, split=None), job)
    assert outcome.split == {"train": 32, "validation": 24}
    lower, upper = (p.train_data_loader[0] for p in job.runs[0]["problems"])
    assert list(lower.indices) == list(range(32))
    assert lower.dataset is job.data.examples
    assert list(upper.dataset) == list(other)
    assert job.runs[0]["validation"] == list(other)


@pytest.mark.parametrize("method", [AutoLoRA(rank=2, split=None), BiDoRA(split=None, retrain=True)])
def test_the_tasks_own_validation_examples_are_not_retrained_on(method):
    job = SmallJob(n=32)
    job.data = dataclasses.replace(job.data, validation=make_data(24, seed=9).examples)
    train(method, job)
    (retrained,) = job.runs[1]["problems"]
    assert retrained.train_data_loader[0].dataset is job.data.examples


@pytest.mark.parametrize("method", [BiLoRA, AutoLoRA])
def test_no_validation_split_to_take_is_said(method):
    with pytest.raises(UserError, match=r"split=null.*batch_size=8.*none"):
        train(method(split=None), SmallJob())
    method(split=None).check_validation(8, 8)
    with pytest.raises(UserError, match=r"split=null.*batch_size=8.* 7"):
        method(split=None).check_validation(7, 8)


def test_each_side_needs_a_batch():
    BiLoRA(split=0.8).check_size(80, 16)
    BiLoRA(split=None).check_size(16, 16)
    with pytest.raises(UserError, match=r"method.split=0.8.* 79 .*63 and 16"):
        BiLoRA(split=0.8).check_size(79, 17)
    with pytest.raises(UserError, match=r"train\.batch_size=16"):
        BiDoRA(split=None).check_size(10, 16)


@pytest.mark.parametrize("method", [AutoLoRA, BiLoRA, BiDoRA])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": 1.0}, r"split=.*in \(0, 1\)"),
        ({"unroll_steps": 0}, "unroll_steps=.*1 or more"),
        ({"upper_steps": 0}, "upper_steps=.*1 or more"),
        ({"warmup_steps": -1}, "warmup_steps=.*0 or more"),
        ({"rank": 0}, "rank=.*1 or more"),
        ({"lora_dropout": 1.0}, r"lora_dropout=.*in \[0, 1\)"),
    ],
)
def test_wrong_settings_are_named(method, options, words):
    with pytest.raises(UserError, match=words):
        method(**options)
