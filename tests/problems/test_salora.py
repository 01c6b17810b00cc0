"""SaLoRA: the three phases of its gates, the constraint, and what it leaves behind."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from bilevel import BilevelEngine, BilevelEngineConfig, UserError
from bilevel.lowrank import (
    component_costs,
    expected_l0,
    export_adapter,
    gated_layers,
    orthogonality,
)
from problems.gate_window import GateWindow, window_steps
from problems.lora import LoRA
from problems.optimizers import OptimizerSettings
from problems.salora import SaLoRA
from problems.salora_parts import gate_lr, multiplier_lr

sys.path.insert(0, str(Path(__file__).parent))
from jobs import SmallJob

ALL = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]


class WatchedJob(SmallJob):
    """All six matrices; after every global step, what ``look(problems)`` says."""

    def __init__(self, look=None, **options):
        super().__init__(**{"n": 64, **options})
        self.target_modules = ALL
        self.look = look
        self.seen = []

    def run(self, problems, dependencies, steps, model, **options):
        if self.look is not None:
            lower, step = problems[0], problems[0].step_normal

            def watched(global_step=None):
                step(global_step=global_step)
                self.seen.append(self.look(problems))

            lower.step_normal = watched
        return super().run(problems, dependencies, steps, model, **options)


def parts(problems):
    lower = problems[0]
    gates = lower.gate_window.gates
    return {
        "phase": gates.phase,
        "logits": gates.logits.detach().clone(),
        "values": gates.values().detach().clone(),
        "lambda": problems[1].module.value.item() if len(problems) > 1 else None,
        "moments": {k: v.clone() for k, v in lower.optimizer.state.get(gates.logits, {}).items()},
        "gate_lr": lower.optimizer.param_groups[1]["lr"],
        "lr": lower.optimizer.param_groups[0]["lr"],
        "density": float(lower.gate_window.density()),
    }


def logits_of(model, job):
    batch = job.data.collate(list(job.data.examples[:16]))
    model.eval()
    with torch.no_grad():
        return model(**batch).logits


# ---------------------------------------------------------------- the window


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
    SaLoRA(rank=4).run(job)
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
    SaLoRA(rank=4, gate_lr=0.06).run(job)
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
        def run(self, problems, *args, **options):
            first.extend(g["lr"] for g in problems[0].optimizer.param_groups)
            return super().run(problems, *args, **options)

    job = Looking(max_steps=4, epochs=9)
    method.run(job)
    assert first == [0.0, 0.06]
    assert job.runs[0]["gates"].phase == "fixed", "also when the window ends with the training"


def test_before_the_window_it_is_lora_bit_for_bit():
    """beta = 0, the same seed and settings: equal factors and head at every step."""
    factors, states = {}, {}
    for name, method in (
        ("lora", LoRA(rank=4)),
        ("salora", SaLoRA(rank=4, beta=0.0, start=0.9, end=1.0)),
    ):
        seen = []
        job = WatchedJob(
            lambda problems, seen=seen: seen.append(
                [p.detach().clone() for p in problems[0].trainable_parameters()]
            ),
            max_steps=10,
            epochs=9,
        )
        method.run(job)
        factors[name] = seen
        states[name] = job
    for step in range(10):
        ours, theirs = factors["salora"][step][:-1], factors["lora"][step]
        assert len(ours) == len(theirs) == 2 * 12 + 2
        same = all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        assert same == (step < 9), f"step {step}"


def test_with_accumulated_gradients_the_window_counts_optimiser_steps():
    job = WatchedJob(parts, max_steps=10, epochs=99, gradient_accumulation=3)
    SaLoRA(rank=4, start=0.2, end=0.5).run(job)
    phases = [s["phase"] for s in job.seen]  # of micro-steps
    assert phases == ["open"] * 6 + ["learning"] * 9 + ["fixed"] * 15
    assert job.seen[-1]["moments"]["step"] == 3
    assert job.runs[0]["problems"][1].count == 3


# ---------------------------------------------------------------- the constraint


def test_the_losses_of_both_levels():
    """L + beta R + lambda (C - b)^2 below, in the window; lambda (C - b)^2 above."""
    job = WatchedJob(max_steps=6, epochs=9)
    SaLoRA(rank=4, density=0.3, start=0.5, end=1.0, beta=0.7, orth_reduce="sum").run(job)
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
    SaLoRA(rank=4, start=0.0, end=1.0).run(job)
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
    costs = torch.tensor([component_costs(model)[name] for name in gates.names]).double()
    costs[0] = window._costs[0] = 5 * costs[0]  # so that sizes matter
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
    SaLoRA(rank=4, start=0.0, end=1.0, multiplier=settings).run(job)
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


@pytest.mark.parametrize("density", [0.5, 0.25, 0.125])
def test_the_expected_density_reaches_its_target(density):
    job = WatchedJob(parts, max_steps=200, epochs=99)
    outcome = SaLoRA(rank=8, density=density, start=0.0, end=0.5).run(job)
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


# ---------------------------------------------------------------- pruning and export


def window_of(logits, costs=(10, 30), **options):
    from bilevel.lowrank import Gates

    gates = Gates(["a", "b"], logits.shape[1], "hard_concrete")
    with torch.no_grad():
        gates.logits.copy_(logits)
    return GateWindow(gates, dict(zip("ab", costs, strict=True)), 0, 1, **options)


def test_what_the_budget_keeps_and_at_which_value():
    """Total 160, half of it 80: b's two largest (60), then a's two (20)."""
    logits = torch.tensor([[-1.0, 2.0, -9.0, -8.0], [3.0, -7.0, 1.0, -7.5]])
    window = window_of(logits, target=0.5)
    window.close()
    expected = {"a": [True, True, False, False], "b": [True, False, True, False]}
    assert {name: mask.tolist() for name, mask in window.kept().items()} == expected
    mask = torch.tensor([expected["a"], expected["b"]])
    mean = window.gates.expected()
    assert torch.equal(window.gates.values(), mean * mask)
    again = window.gates.values()
    window.close()
    assert torch.equal(window.gates.values(), again)


def test_the_threshold_is_minus_log_eleven():
    logits = torch.tensor([[-2.39, -2.41], [0.0, -5.0]])
    window = window_of(logits, target=0.5, prune="threshold")
    window.close()
    assert {k: v.tolist() for k, v in window.kept().items()} == {
        "a": [True, False],
        "b": [True, False],
    }


def test_a_budget_without_room_for_a_component_is_refused():
    with pytest.raises(UserError, match="has no room for one component of 10"):
        window_of(torch.zeros(2, 4), target=0.01)


@pytest.mark.parametrize("options", [{}, {"density": 0.2}, {"prune": "threshold"}])
def test_the_pruned_adapter_is_plain_lora_for_stock_peft(options, tmp_path):
    job = WatchedJob(epochs=4)
    outcome = SaLoRA(rank=4, **options).run(job)
    trained = logits_of(outcome.model, job)
    report = export_adapter(outcome.model, tmp_path, keep=outcome.keep)
    assert report.ranks == outcome.ranks
    assert 0 < sum(report.ranks.values()) < 4 * 12
    assert report.cut == 0, "what is cut was at zero already"
    costs = component_costs(outcome.model)
    assert report.parameters == sum(costs[n] * r for n, r in outcome.ranks.items())
    if "prune" not in options:
        target = options.get("density", 0.5)
        total = 4 * sum(costs.values())
        assert target * total - max(costs.values()) < report.parameters <= target * total
    for folder in (report.adapter, report.compact):
        loaded = PeftModel.from_pretrained(job.build_model(), str(folder))
        torch.testing.assert_close(logits_of(loaded, job), trained, rtol=0, atol=1e-5)
    fresh = logits_of(job.build_model(), job)
    assert not torch.allclose(fresh, trained, atol=1e-3), "there was something to load"


def test_fixing_the_gates_leaves_the_layers_outputs_at_their_mean():
    """So the loss does not jump at T_end: B E[g] A x is the mean of B g A x over the draws."""
    model, window = SaLoRA(rank=4, density=1.0).adapted(WatchedJob(), 10)
    gates = window.gates
    torch.manual_seed(0)
    with torch.no_grad():
        gates.logits.normal_(0, 3)
        gate = torch.stack([gates.compute(sample=True) for _ in range(4000)])
    window.close()
    layer = next(iter(gated_layers(model).values()))
    x = torch.randn(layer.A.shape[1])
    with torch.no_grad():
        layer.B.normal_()
        drawn = (gate[:, 0] * (layer.A @ x)) @ layer.B.T
        fixed = (gates.values()[0] * (layer.A @ x)) @ layer.B.T
    error = drawn.std(0) / len(drawn) ** 0.5
    assert ((fixed - drawn.mean(0)).abs() < 4.5 * error).all()


# ---------------------------------------------------------------- ablations and settings


def test_without_the_constraint_there_is_one_problem_and_no_pull():
    ends = {}
    for constraint in (True, False):
        job = WatchedJob(parts, max_steps=60, epochs=99)
        outcome = SaLoRA(rank=4, density=0.2, constraint=constraint, prune="threshold").run(job)
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
        SaLoRA(rank=4, beta=beta).run(job)
        ends.append(float(job.runs[0]["watch"]()["orthogonality"]))
        pairs = [(g.B, g.A) for g in gated_layers(job.runs[0]["model"]).values()]
        assert ends[-1] == pytest.approx(float(orthogonality(pairs)))
    assert ends[1] < 0.5 * ends[0]


def test_what_is_watched():
    job = WatchedJob(max_steps=10, epochs=9)
    SaLoRA(rank=4, density=0.3).run(job)
    found = job.runs[0]["watch"]()
    assert set(found) == {"density", "target_density", "multiplier", "orthogonality"}
    logits = job.runs[0]["gates"].logits
    assert found["target_density"] == 0.3
    share = expected_l0(logits).mean() / 4  # all layers of this model cost the same
    torch.testing.assert_close(found["density"], share)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": 0}, "rank must be 1 or more, got 0"),
        ({"density": 0.0}, r"density must be in \(0, 1\], got 0.0"),
        ({"density": 1.5}, r"density must be in \(0, 1\], got 1.5"),
        ({"prune": "top"}, "unknown prune 'top'; allowed: budget, threshold"),
        ({"orth_reduce": "max"}, "unknown orth_reduce 'max'; allowed: mean, sum"),
        ({"start": 0.4, "end": 0.1}, r"start and end must be 0 <= start < end <= 1"),
        ({"end": 1.2}, r"start and end must be 0 <= start < end <= 1, got \(0.1, 1.2\)"),
        ({"beta": -1.0}, "beta must be 0 or more, got -1.0"),
        ({"tau": 0.0}, "tau must be more than 0, got 0.0"),
        ({"gamma": 0.1}, "gamma must be less than 0, got 0.1"),
        ({"zeta": 0.9}, "zeta must be more than 1, got 0.9"),
        ({"gate_lr": 0.0}, "gate_lr must be more than 0, got 0.0"),
    ],
)
def test_wrong_settings_are_named(options, words):
    with pytest.raises(UserError, match=words):
        SaLoRA(**options)


# ---------------------------------------------------------------- resume


class Interrupted(SmallJob):
    """Saves the engine's state after ``at`` global steps, or continues from one."""

    def __init__(self, at, saved=None, **options):
        super().__init__(n=64, epochs=9, max_steps=20, **options)
        self.target_modules = ALL
        self.at = at
        self.saved = saved

    def run(self, problems, dependencies, steps, model, **options):
        config = BilevelEngineConfig(train_iters=steps, strategy="cpu")
        engine = BilevelEngine(problems, config, dependencies)
        if self.saved is None:
            engine.train_iters = self.at
            engine.run()
            self.saved = engine.copy_state()
            engine.train_iters = steps
        else:
            engine.load_state_dict(self.saved)
            self.phase = options["gates"].phase
        engine.run()
        self.gates = options["gates"]
        return {}


@pytest.mark.parametrize(
    ("at", "phase"), [(5, "open"), (6, "learning"), (9, "learning"), (11, "fixed")]
)
def test_a_resumed_run_ends_as_one_left_alone(at, phase):
    """Window 5 to 10 of 20 steps; saved on either side of its borders and inside it."""
    method = SaLoRA(rank=4, start=0.25, end=0.5)
    first = Interrupted(at)
    whole = method.run(first)
    second = Interrupted(at, first.saved)
    resumed = method.run(second)
    assert second.phase == phase
    assert torch.equal(first.gates.logits, second.gates.logits)
    assert torch.equal(first.gates.values(), second.gates.values())
    for (name, a), b in zip(
        whole.model.named_parameters(), resumed.model.parameters(), strict=True
    ):
        assert torch.equal(a, b), name
    assert whole.ranks == resumed.ranks
