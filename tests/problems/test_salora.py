"""SaLoRA: the losses of its levels, the density it is held to, and its settings."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bilevel import UserError
from bilevel.lowrank import component_costs, expected_l0, gated_layers, orthogonality
from problems.common import OptimizerSettings
from problems.salora import SaLoRA
from problems.salora.settings import gate_lr, multiplier_lr
from tests.problems.jobs import train
from tests.problems.salora_jobs import WatchedJob, parts


def test_the_losses_of_both_levels():
    """L + beta R + lambda (C - b)^2 below, in the window; lambda (C - b)^2 above."""
    job = WatchedJob(max_steps=6, epochs=9)
    train(SaLoRA(rank=4, density=0.3, start=0.5, end=1.0, beta=0.7, orth_reduce="sum"), job)
    lower, ascent = job.runs[0]["problems"]
    gates, window = lower.gate_window.gates, lower.gate_window
    lower.module.eval()  # without noise: no draw of gates, no dropout
    batch = job.data.collate(list(job.data.examples[:8]))
    with torch.no_grad():
        ascent.module.value.fill_(2.5)
        gates.logits.normal_(-1.0)
    costs = component_costs(job.runs[0]["model"])
    R = sum(
        ((m @ m.T - torch.eye(4)) ** 2).sum()
        for layer in gated_layers(job.runs[0]["model"]).values()
        for m in (layer.A, layer.B.T)
    )
    odds = torch.sigmoid(gates.logits + torch.tensor(11.0).log())
    per = torch.tensor([costs[name] for name in gates.names]).float()
    C = (per[:, None] * odds).sum() / (per.sum() * 4)
    torch.testing.assert_close(window.density(), C)
    for phase, term in (("learning", 2.5 * (C - 0.3) ** 2), ("open", 0.0), ("fixed", 0.0)):
        gates.phase = phase
        task = lower.module(**batch).loss
        torch.testing.assert_close(lower.loss(batch), task + 0.7 * R + term)
    gates.learn()
    torch.testing.assert_close(ascent.loss({}), 2.5 * (C - 0.3) ** 2)
    gradient = torch.autograd.grad(lower.loss(batch), gates.logits)[0]
    assert gradient.any()


def test_the_penalties_are_in_full_precision():
    job = WatchedJob(max_steps=3, epochs=9, precision="bf16")
    train(SaLoRA(rank=4, start=0.0, end=1.0), job)
    lower = job.runs[0]["problems"][0]
    seen = []
    lower.penalty = lambda pairs: seen.extend(P.T @ P for P, _ in pairs) or seen[-1].sum()
    lower.gate_window.gates.learn()
    lower.loss(job.data.collate(list(job.data.examples[:8])))
    assert {x.dtype for x in seen} == {torch.float32}
    assert lower.gate_window.density().dtype == torch.float32


def test_the_density_in_closed_form_is_that_of_drawn_gates():
    torch.manual_seed(0)
    model, window = SaLoRA(rank=4).adapted(WatchedJob(), 10)
    gates = window.gates
    with torch.no_grad():
        gates.logits.normal_(-1.0, 2.0)
    by_name = component_costs(model)
    by_name[gates.names[0]] *= 5  # so that sizes matter
    window = replace(window, costs=by_name)
    costs = torch.tensor([by_name[name] for name in gates.names]).double()
    shares = []
    for _ in range(4000):
        open_ = (gates.compute(sample=True) > 0).double().sum(1)
        shares.append((costs * open_).sum() / (costs.sum() * 4))
    shares = torch.stack(shares)
    error = float(shares.std()) / len(shares) ** 0.5
    assert abs(float(shares.mean() - window.density())) < 4 * error


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_multiplier_ascends_and_is_never_negative(name):
    job = WatchedJob(parts, max_steps=30, epochs=9)
    settings = OptimizerSettings(name=name, lr=0.05, schedule="constant")
    train(SaLoRA(rank=4, start=0.0, end=1.0, multiplier=settings), job)
    lambdas = [s["lambda"] for s in job.seen]
    assert all(b >= a for a, b in zip([0.0, *lambdas], lambdas, strict=False))
    assert lambdas[-1] > 0
    if name == "sgd":  # plain ascent: lambda + lr (C - b)^2 at the density it sees
        before = 0.0
        for s in job.seen:
            expected = before + 0.05 * (s["density"] - 0.5) ** 2
            assert s["lambda"] == pytest.approx(expected, rel=1e-4)
            before = s["lambda"]
    ascent = job.runs[0]["problems"][1]
    with torch.no_grad():
        ascent.module.value.fill_(-3.0)
    ascent.param_callback()
    assert ascent.module.value.item() == 0


@pytest.mark.parametrize("density", [0.5, pytest.param(0.25, marks=pytest.mark.slow), 0.125])
def test_the_expected_density_reaches_its_target(density):
    job = WatchedJob(parts, max_steps=100, epochs=99)
    outcome = train(SaLoRA(rank=8, density=density, start=0.0, end=1.0), job)
    assert abs(job.seen[-1]["density"] - density) < 0.02
    costs = component_costs(outcome.model)
    kept = sum(costs[name] * rank for name, rank in outcome.ranks.items())
    total = 8 * sum(costs.values())
    assert density * total - max(costs.values()) < kept <= density * total


def test_rates_grow_as_windows_shrink_and_end_at_the_papers():
    _, window = SaLoRA(rank=4).adapted(WatchedJob(), 100)
    assert gate_lr(window) == pytest.approx(40 / 30), "falling to 0 over 30 steps: 20 in all"
    assert multiplier_lr(window) == pytest.approx(60 / 30)
    window.last = window.first + 100_000
    assert gate_lr(window) == multiplier_lr(window) == 0.01


def test_without_the_constraint_there_is_one_problem_and_no_pull():
    ends = {}
    for constraint in (True, False):
        job = WatchedJob(parts, max_steps=60, epochs=99)
        outcome = train(SaLoRA(rank=4, density=0.2, constraint=constraint, prune="threshold"), job)
        ends[constraint] = job.seen[-1]["density"]
        assert len(job.runs[0]["problems"]) == 1 + constraint
        assert ("multiplier" in job.runs[0]["watch"]()) == constraint
        weights = sum(p.numel() for p in job.runs[0]["problems"][0].trainable_parameters())
        assert outcome.trainable_parameters == weights + constraint
    assert ends[True] < ends[False] - 0.2


def test_the_orthogonality_penalty_makes_the_factors_more_orthogonal():
    ends = []
    for beta in (0.0, 10.0):
        job = WatchedJob(epochs=6)
        train(SaLoRA(rank=4, beta=beta), job)
        ends.append(float(job.runs[0]["watch"]()["orthogonality"]))
        pairs = [(g.B, g.A) for g in gated_layers(job.runs[0]["model"]).values()]
        assert ends[-1] == pytest.approx(float(orthogonality(pairs)))
    assert ends[1] < 0.5 * ends[0]


def test_what_is_watched():
    job = WatchedJob(max_steps=10, epochs=9)
    train(SaLoRA(rank=4, density=0.3), job)
    found = job.runs[0]["watch"]()
    assert set(found) == {"density", "target_density", "multiplier", "orthogonality"}
    logits = job.runs[0]["gates"].gates.logits
    assert found["target_density"] == 0.3
    share = expected_l0(logits).mean() / 4  # all layers of this model cost the same
    torch.testing.assert_close(found["density"], share)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": 0}, "rank=.*1 or more"),
        ({"density": 0.0}, r"density=.*in \(0, 1\]"),
        ({"density": 1.5}, r"density=.*in \(0, 1\]"),
        ({"prune": "top"}, "prune=.*one of"),
        ({"orth_reduce": "max"}, "orth_reduce=.*one of"),
        ({"start": 0.4, "end": 0.1}, "start=0.4.*less than method.end"),
        ({"end": 1.2}, r"end=1.2.*in \[0, 1\]"),
        ({"beta": -1.0}, "beta=.*0 or more"),
        ({"tau": 0.0}, "tau=.*more than 0"),
        ({"gamma": 0.1}, "gamma=.*less than 0"),
        ({"zeta": 0.9}, "zeta=.*more than 1"),
        ({"gate_lr": 0.0}, "gate_lr=.*more than 0"),
    ],
)
def test_wrong_settings_are_named(options, words):
    with pytest.raises(UserError, match=words):
        SaLoRA(**options)
