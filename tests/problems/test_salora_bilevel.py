"""SaLoRA on two levels: who trains what on which data, and the gradient through drawn gates."""

from __future__ import annotations

import pytest
import torch

from bilevel import UserError
from bilevel.hypergradient import Alignment, FiniteDifference, NoHypergradient, Unrolled
from bilevel.lowrank import gated_layers
from problems.common import OptimizerSettings, trainable
from problems.salora import SaLoRABilevel
from problems.salora.settings import window_steps
from tests.problems.jobs import ExactJob, train
from tests.problems.salora_jobs import Interrupted, WatchedJob
from tests.problems.whole_runs import assert_unrolled_is_exact


def counts(problems):
    """After a lower step: the levels' steps, and how many are remembered for the gates."""
    found = {p.name: p.count for p in problems}
    return found | {"phase": problems[0].gate_window.gates.phase, "kept": len(_records(problems))}


def _records(problems):
    return problems[0].recorded.steps


@pytest.mark.parametrize("T1", [1, 2])
def test_three_problems_whose_upper_ones_step_in_the_window_only(T1):
    """10 global steps, window 2 to 5."""
    job = WatchedJob(counts, max_steps=10, epochs=99, hypergradient=Unrolled())
    method = SaLoRABilevel(rank=4, start=0.2, end=0.5, unroll_steps=T1, upper_steps=2)
    outcome = train(method, job)
    ends = job.seen[T1 - 1 :: T1]  # of the global steps
    assert [s["phase"] for s in ends] == ["open"] * 2 + ["learning"] * 3 + ["fixed"] * 5
    assert [s["lower"] for s in ends] == [T1 * (i + 1) for i in range(10)]
    assert [s["upper"] for s in ends] == [0, 0, 2, 4, 6, 6, 6, 6, 6, 6]
    assert [s["multiplier"] for s in ends] == [s["upper"] for s in ends]
    assert [s["kept"] for s in ends] == [0, 0, T1, T1, T1, 0, 0, 0, 0, 0]
    lower, upper, ascent = job.runs[0]["problems"]
    gates = job.runs[0]["gates"].gates
    assert [id(p) for p in upper.trainable_parameters()] == [id(gates.logits)]
    below = {id(p) for p in lower.trainable_parameters()}
    assert below == {id(p) for p in trainable(job.runs[0]["model"])}
    assert id(gates.logits) not in below
    D1, D2 = (set(p.train_data_loader[0].indices) for p in (lower, upper))
    assert not D1 & D2
    assert set(range(64)) == D1 | D2
    assert outcome.split == {"train": 51, "validation": 13}
    assert outcome.validation_loss == 0.5
    assert gates.logits.any()
    assert ascent.module.value > 0
    assert upper.optimizer.param_groups[0]["lr"] == 0, "its schedule ends with the window"


def test_the_multipliers_schedule_is_as_long_as_its_steps():
    """Two in each global step of the window: no rate of 0 half-way through it."""
    rates = []

    def watched(problems):
        rates.append(problems[2].optimizer.param_groups[0]["lr"])
        return {}

    job = WatchedJob(watched, max_steps=12, epochs=99, hypergradient=Unrolled())
    multiplier = OptimizerSettings(schedule="linear", warmup_ratio=0.0, lr=0.1)
    train(SaLoRABilevel(rank=4, start=0.0, end=0.5, upper_steps=2, multiplier=multiplier), job)
    assert min(rates[:5]) > 0
    assert rates[5:] == [0.0] * len(rates[5:])


def test_a_window_begins_where_it_is_said_to():
    assert window_steps(0.29, 0.58, 100) == (29, 58)
    assert window_steps(0.57, 0.9, 100) == (57, 90)
    assert window_steps(0.295, 0.58, 100) == (29, 58)


def test_the_upper_loss_is_that_of_held_out_data_and_the_density():
    job = WatchedJob(max_steps=4, epochs=9)
    train(SaLoRABilevel(rank=4, start=0.0, end=1.0, density=0.3), job)
    lower, upper, ascent = job.runs[0]["problems"]
    lower.gate_window.gates.learn()
    lower.module.eval()
    with torch.no_grad():
        ascent.module.value.fill_(3.0)
    batch = job.data.collate(list(job.data.examples[:8]))
    task = lower.module(**batch).loss
    C = lower.gate_window.density()
    torch.testing.assert_close(upper.loss(batch), task + 3.0 * (C - 0.3) ** 2)
    R = lower.penalty(lower.factors.pairs())
    torch.testing.assert_close(lower.loss(batch), task + 0.1 * R)


class Doubled(SaLoRABilevel):
    """With log theta in float64, apart from 0, and factors whose update is not 0."""

    def adapted(self, job, steps, rows=None):
        model, window = super().adapted(job, steps, rows)
        window.gates.double()
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            window.gates.logits.copy_(
                torch.randn(window.gates.logits.shape, generator=generator, dtype=torch.float64)
            )
            for layer in gated_layers(model).values():
                layer.B.copy_(torch.randn(layer.B.shape, generator=generator) * 0.1)
        return model, window

    def check_window(self, steps):
        """A single step is what is looked at."""


def method_with(T1):
    lower = OptimizerSettings(betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1, schedule="constant")
    return Doubled(
        rank=2, unroll_steps=T1, optimizer=lower, start=0.0, end=1.0, constraint=False, beta=0.3
    )


def plain_run(shift, T1):
    """L2 after T1 steps of torch's own AdamW at log theta + shift: no engine, no problems.

    Every forward draws its gates from the same random state as in every other run.
    """
    method, job = method_with(T1), ExactJob(n=64, max_steps=1)
    torch.manual_seed(0)
    model, window = method.adapted(job, 1)
    with torch.no_grad():
        window.gates.logits.add_(shift)
    model.train()
    optimizer = torch.optim.AdamW(
        trainable(model), lr=1e-2, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1
    )
    parts = method.parts(job)
    batches = iter(parts.lower)
    torch.manual_seed(99)
    for _ in range(T1):
        loss = model(**next(batches)).loss
        matrices = [m for g in gated_layers(model).values() for m in (g.A, g.B.T)]
        one = torch.eye(2, dtype=torch.float64)
        loss = loss + 0.3 * sum(((m @ m.T - one) ** 2).sum() for m in matrices) / len(matrices)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return model(**next(iter(parts.upper))).loss


@pytest.mark.parametrize("T1", [1, 3])
def test_the_hypergradient_through_drawn_gates_is_that_of_the_whole_run(T1):
    """Of T1 real steps, in float64."""
    assert_unrolled_is_exact(method_with(T1), lambda shift: plain_run(shift, T1))


@pytest.mark.parametrize("density", [0.5, 0.125])
def test_the_density_reaches_its_target(density):
    def look(problems):
        return float(problems[0].gate_window.density())

    job = WatchedJob(look, max_steps=80, epochs=99, hypergradient=NoHypergradient())
    outcome = train(SaLoRABilevel(rank=8, density=density, start=0.0, end=1.0), job)
    assert abs(job.seen[-1] - density) < 0.02
    kept = sum(outcome.ranks.values()) / (8 * 12)  # layers of equal size
    assert density - 1 / 96 < kept <= density


def test_the_closed_form_estimator_is_refused_by_name():
    with pytest.raises(UserError, match=r"gate.*random"):
        SaLoRABilevel(rank=4).check_hypergradient(Alignment())


def test_without_the_constraint_there_are_two_levels():
    job = WatchedJob(max_steps=4, epochs=9, hypergradient=FiniteDifference())
    method = SaLoRABilevel(rank=4, start=0.0, end=1.0, constraint=False, prune="threshold")
    train(method, job)
    assert [p.name for p in job.runs[0]["problems"]] == ["lower", "upper"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": 1.0}, r"split=.*in \(0, 1\)"),
        ({"upper_steps": 0}, "upper_steps=.*1 or more"),
        ({"density": 2.0}, r"density=.*in \(0, 1\]"),
        ({"warmup_steps": 3}, "method.start.*warmup_steps"),
        ({"roll_back": True}, "salora_bilevel.*roll"),
    ],
)
def test_wrong_settings_are_named(options, words):
    with pytest.raises(UserError, match=words):
        SaLoRABilevel(**options)


@pytest.mark.parametrize(("at", "phase"), [(5, "open"), (7, "learning"), (11, "fixed")])
def test_a_resumed_run_ends_as_one_left_alone(at, phase):
    """Window 5 to 10 of 20 global steps."""
    method = SaLoRABilevel(rank=4, start=0.25, end=0.5, unroll_steps=2)
    options = {"hypergradient": Unrolled()}
    first = Interrupted(at, **options)
    whole = train(method, first)
    second = Interrupted(at, first.saved, **options)
    resumed = train(method, second)
    assert second.phase == phase
    assert torch.equal(first.gates.logits, second.gates.logits)
    assert torch.equal(first.gates.values(), second.gates.values())
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)
