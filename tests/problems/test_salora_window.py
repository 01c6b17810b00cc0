"""SaLoRA: the three phases of its gates, and going on from a state saved in any of them."""

from __future__ import annotations

import itertools

import pytest
import torch

from problems.common import OptimizerSettings
from problems.lora import LoRA
from problems.salora import SaLoRA
from problems.salora.settings import window_steps
from tests.problems.jobs import train
from tests.problems.salora_jobs import Interrupted, WatchedJob, parts


@pytest.mark.parametrize(
    ("start", "end", "steps", "expected"),
    [
        (0.1, 0.4, 100, (10, 40)),
        (0.0, 1.0, 7, (0, 7)),
        (0.1, 0.4, 1, (0, 1)),
        (0.9, 1.0, 3, (2, 3)),
        (0.5, 0.51, 10, (5, 6)),
    ],
)
def test_the_window_in_steps(start, end, steps, expected):
    assert window_steps(start, end, steps) == expected


def test_gates_and_multiplier_move_in_the_window_and_nowhere_else():
    """40 steps, window 4 to 16: no step, and no momentum, outside."""
    job = WatchedJob(parts, max_steps=40, epochs=9)
    train(SaLoRA(rank=4), job)
    seen = job.seen
    assert [s["phase"] for s in seen] == ["open"] * 4 + ["learning"] * 12 + ["fixed"] * 24
    for s in seen[:4]:
        assert torch.equal(s["logits"], torch.zeros(12, 4))
        assert torch.equal(s["values"], torch.ones(12, 4))
        assert s["lambda"] == 0
        assert not s["moments"]
    lambdas = [s["lambda"] for s in seen[3:16]]
    assert all(b > a for a, b in itertools.pairwise(lambdas)), "(C - b)^2 > 0"
    for before, after in itertools.pairwise(seen[3:16]):
        assert not torch.equal(before["logits"], after["logits"])
    assert seen[15]["moments"]["step"] == 12
    end = seen[15]
    for s in seen[16:]:
        assert torch.equal(s["logits"], end["logits"])
        assert torch.equal(s["values"], seen[16]["values"])
        assert s["lambda"] == end["lambda"]
        assert all(torch.equal(s["moments"][k], v) for k, v in end["moments"].items())


def test_the_gates_rate_is_their_own_and_falls_in_the_window_only():
    job = WatchedJob(parts, max_steps=40, epochs=9)
    train(SaLoRA(rank=4, gate_lr=0.06), job)
    rates = [s["gate_lr"] for s in job.seen]  # after step t + 1: the rate of the one after
    expected = [0.06 * min(1, max(0, (16 - t) / 12)) for t in range(1, 41)]
    assert rates == pytest.approx(expected)
    assert job.seen[-1]["lr"] == 0
    assert job.seen[3]["lr"] > job.seen[20]["lr"] > 0


def test_a_window_from_the_first_step_uses_the_rate_at_once():
    """Also where the factors' own schedule begins with a warm-up, at 0."""
    settings = OptimizerSettings(warmup_ratio=0.5)
    method = SaLoRA(rank=4, start=0.0, end=1.0, gate_lr=0.06, optimizer=settings)
    first = []

    class Looking(WatchedJob):
        def run(self, training):
            first.extend(g["lr"] for g in training.problems[0].optimizer.param_groups)
            return super().run(training)

    job = Looking(max_steps=4, epochs=9)
    train(method, job)
    assert first == [0.0, 0.06]
    phase = job.runs[0]["gates"].gates.phase
    assert phase == "fixed", "also when the window ends with the training"


def test_before_the_window_it_is_lora_bit_for_bit():
    """beta = 0, the same seed and settings: equal factors and head at every step."""
    factors, states = {}, {}
    for name, method in (
        ("lora", LoRA(rank=4)),
        ("salora", SaLoRA(rank=4, beta=0.0, start=0.7, end=1.0)),
    ):
        seen = []
        job = WatchedJob(
            lambda problems, seen=seen: seen.append(
                [p.detach().clone() for p in problems[0].trainable_parameters()]
            ),
            max_steps=10,
            epochs=9,
        )
        train(method, job)
        factors[name] = seen
        states[name] = job
    for step in range(10):
        ours, theirs = factors["salora"][step][:-1], factors["lora"][step]
        assert len(ours) == len(theirs) == 2 * 12 + 2
        same = all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        assert same == (step < 7), f"step {step}"


def test_with_accumulated_gradients_the_window_counts_optimiser_steps():
    job = WatchedJob(parts, max_steps=10, epochs=99, gradient_accumulation=3)
    train(SaLoRA(rank=4, start=0.2, end=0.5), job)
    phases = [s["phase"] for s in job.seen]  # of micro-steps
    assert phases == ["open"] * 6 + ["learning"] * 9 + ["fixed"] * 15
    assert job.seen[-1]["moments"]["step"] == 3
    assert job.runs[0]["problems"][1].count == 3


@pytest.mark.parametrize(
    ("at", "phase"), [(5, "open"), (6, "learning"), (9, "learning"), (11, "fixed")]
)
def test_a_resumed_run_ends_as_one_left_alone(at, phase):
    """Window 5 to 10 of 20 steps; saved on either side of its borders and inside it."""
    method = SaLoRA(rank=4, start=0.25, end=0.5)
    first = Interrupted(at)
    whole = train(method, first)
    second = Interrupted(at, first.saved)
    resumed = train(method, second)
    assert second.phase == phase
    assert torch.equal(first.gates.logits, second.gates.logits)
    assert torch.equal(first.gates.values(), second.gates.values())
    for (name, a), b in zip(
        whole.model.named_parameters(), resumed.model.parameters(), strict=True
    ):
        assert torch.equal(a, b), name
    assert whole.ranks == resumed.ranks
