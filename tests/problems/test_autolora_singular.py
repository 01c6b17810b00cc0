"""AutoLoRA in the singular basis: turns, one selection over all layers, and what goes on after."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch

from bilevel import UserError
from bilevel.cutting import Losses
from bilevel.hypergradient import Alignment, NoHypergradient, Unrolled
from bilevel.lowrank import Gates, attach_gates, gated_layers, lora_layers, lora_scales
from problems.autolora_singular import AutoLoRASingular
from problems.autolora_singular.rounds import Rounds
from problems.common import OptimizerSettings, trainable, with_lora
from tests.problems.jobs import ExactJob, SmallJob, logits_of, make_data, train
from tests.problems.resuming import assert_resumes_exactly

SELECTIONS = ["softmax", "hard_concrete"]


def quick(**options):
    """A quarter of the steps plain, a half with gates; without a frontier unless asked for."""
    return AutoLoRASingular(
        **{
            "rank": 4,
            "start": 0.25,
            "end": 0.75,
            "hold_out": 0.0,
            "parameter_budget": 0.5,
            "unroll_steps": 2,
            **options,
        }
    )


class Watched(SmallJob):
    """Looks at the levels after every lower step of the search."""

    def __init__(self, look, hypergradient=None, **options):
        super().__init__(hypergradient or Unrolled(), **{"n": 64, "epochs": 99, **options})
        self.look = look
        self.seen = []

    def run(self, training):
        if len(training.problems) > 1:
            lower = training.problems[0]
            step = lower.step_normal

            def watched(global_step=None):
                step(global_step=global_step)
                self.seen.append(self.look(training.problems))

            lower.step_normal = watched
        return super().run(training)


# ---------------------------------------------------------------- turns


def gated(job, kind, dtype):
    model = with_lora(job, 4, 16.0, 0.0).to(dtype)
    gates = Gates(list(lora_layers(model)), 4, kind, 3.0 if kind == "hard_concrete" else None)
    gates = gates.to(dtype)
    attach_gates(model, gates)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        gates.logits.copy_(torch.randn(gates.logits.shape, generator=generator))
        for layer in gated_layers(model).values():
            layer.B.copy_(torch.randn(layer.B.shape, generator=generator) * 0.1)
    return Rounds(model, gates, first=1, every=2)


def updates(model):
    """s B diag(g) A of every layer, from the layer's own parts."""
    scales = lora_scales(model)
    return {
        name: scales[name] * layer.B @ torch.diag(layer.gates.value(name)) @ layer.A
        for name, layer in gated_layers(model).items()
    }


@pytest.mark.parametrize("kind", ["joint_softmax", "hard_concrete"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_a_turn_leaves_the_function_and_ends_in_the_singular_basis(kind, dtype, tolerance):
    job = ExactJob()
    rounds = gated(job, kind, dtype)
    before, logits = updates(rounds.model), logits_of(rounds.model, job)
    rounds.turn()
    assert (rounds.gates.values() == 1).all()
    after = logits_of(rounds.model, job)
    assert (after - logits).norm() < tolerance * logits.norm()
    for name, layer in gated_layers(rounds.model).items():
        sigma = torch.linalg.svdvals(before[name].double())[:4] / 4.0  # s
        for factor in (layer.B.T, layer.A):
            gram = (factor @ factor.T).double()
            assert (gram - torch.diag(sigma)).abs().max() < 10 * tolerance * sigma[0]


@pytest.mark.parametrize("selection", SELECTIONS)
def test_what_adam_knows_of_factors_and_gates_is_forgotten_and_of_the_head_kept(selection):
    """12 global steps, 3 plain, turns before steps 3, 5 and 7 (counted from 0)."""

    def look(problems):
        lower, upper = problems[:2]
        layers = list(gated_layers(lower.module).values())
        factors = {id(p) for layer in layers for p in (layer.A, layer.B)}
        state = lower.optimizer.state
        return {
            "factors": {int(state[p]["step"]) for p in state if id(p) in factors},
            "head": {int(state[p]["step"]) for p in state if id(p) not in factors},
            "gates": [int(s["step"]) for s in upper.optimizer.state.values()],
        }

    job = Watched(look, max_steps=12)
    train(quick(selection=selection, rotate_every=2), job)
    ends = job.seen[1::2]
    assert [s["factors"] for s in ends] == [{2}, {4}, {6}] + [{2}, {4}] * 3
    assert [s["head"] for s in ends] == [{2 * i} for i in range(1, 10)]
    assert [s["gates"] for s in ends] == [[], [], []] + [[1], [2]] * 3


# ---------------------------------------------------------------- phases and levels


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("T1", [1, 3])
def test_gates_learn_after_the_factors_and_steps_are_recorded_for_them_alone(selection, T1):
    def look(problems):
        lower, upper = problems[:2]
        return (lower.rounds.gates.phase, upper.count, len(lower.recorded.steps))

    job = Watched(look, max_steps=8)
    train(quick(selection=selection, unroll_steps=T1, upper_steps=2), job)
    ends = job.seen[T1 - 1 :: T1]
    assert [s[0] for s in ends] == ["open"] * 2 + ["learning"] * 4
    assert [s[1] for s in ends] == [0, 0, 2, 4, 6, 8]
    assert [s[2] for s in ends] == [0, 0, T1, T1, T1, T1]
    lower, upper = job.runs[0]["problems"][:2]
    assert [id(p) for p in upper.trainable_parameters()] == [id(job.runs[0]["gates"].logits)]
    assert {id(p) for p in lower.trainable_parameters()} == {
        id(p) for p in trainable(job.runs[0]["model"])
    }
    assert lower.optimizer.param_groups[0]["lr"] == 0, "its schedule ends with the search"
    assert upper.optimizer.param_groups[0]["lr"] == 0


def test_lower_steps_in_all_are_those_of_lora():
    job = SmallJob(n=64, epochs=8)
    train(quick(hold_out=0.2), job)
    search, finish = job.runs
    assert search["steps"] * 2 + finish["steps"] == 64  # 8 passes over 8 batches
    assert search["problems"][0].count == search["steps"] * 2 == 48


def test_levels_and_held_out_examples_share_nothing_and_the_last_steps_see_all():
    job = SmallJob(n=80, epochs=8)
    outcome = train(quick(hold_out=0.2), job)
    lower, upper = (set(p.train_data_loader[0].indices) for p in job.runs[0]["problems"])
    held = {id(row) for row in job.runs[0]["validation"]}
    apart = {i for i, row in enumerate(job.data.examples) if id(row) in held}
    assert sorted([*lower, *upper, *apart]) == list(range(80))
    assert outcome.split == {"train": len(lower), "validation": len(upper), "held_out": 16}
    assert outcome.validation_trained_on, "in the end"
    last = job.runs[1]["problems"][0].train_data_loader[0]
    assert sorted(last.indices) == list(range(80))


def test_the_tasks_own_validation_split_is_d_val_or_draws_the_frontier():
    own = make_data(24, seed=9).examples
    for options, drawn in (({"split": None, "hold_out": 0.2}, False), ({}, True)):
        job = Judge(2, n=64, epochs=8)
        job.data = dataclasses.replace(job.data, validation=own)
        train(quick(**{"parameter_budget": None, **options}), job)
        upper = job.runs[0]["problems"][1].train_data_loader[0]
        assert (upper.dataset[0] is own[0]) != drawn
        assert all((row in job.judged) == drawn for row in own)
        trained = [r for p in job.runs[0]["problems"] for r in rows_of(p)]
        assert not {id(r) for r in trained} & {id(r) for r in job.judged}


def rows_of(problem):
    loader = problem.train_data_loader[0]
    return [loader.dataset[int(i)] for i in loader.indices]


def test_a_gate_of_a_short_search_moves_by_a_fifth_a_step_at_most():
    seen = []
    job = Watched(lambda problems: seen.append(problems[1].module.values().detach()), max_steps=4)
    train(quick(), job)
    assert job.runs[0]["problems"][1].optimizer.defaults["lr"] == pytest.approx(0.2)
    assert max(float((after / before).log().max()) for before, after in pairwise(seen)) < 0.41


# ---------------------------------------------------------------- the derivative


class Doubled(AutoLoRASingular):
    """With logits in float64, from 0: at the start of hard-concrete gates few are not at 1."""

    def _gates(self, names):
        gates = super()._gates(names).double()
        gates.init = 0.0
        gates.restart()
        return gates


def doubled(selection, T1):
    lower = OptimizerSettings(betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1, schedule="constant")
    return Doubled(
        rank=2,
        unroll_steps=T1,
        lower=dataclasses.replace(lower, warmup_ratio=0.0),
        start=0.34,
        end=0.67,
        hold_out=0.0,
        parameter_budget=0.5,
        selection=selection,
    )


class Listening(ExactJob):
    """Keeps the gradients that the gates step with; what is drawn at random, from 99 on."""

    def run(self, training):
        if len(training.problems) > 1:
            self.gradients = []
            training.problems[1].gradient_hooks.append(
                lambda problem, loss: self.gradients.append(problem.module.logits.grad.clone())
            )
            torch.manual_seed(99)
        return super().run(training)


def plain_run(shift, selection, T1):
    """L2 after a warm-up, a turn and T1 steps at logits + shift: torch alone, no engine.

    The turn is an SVD of the whole matrices, and a fresh optimiser for the factors.
    """
    method, job = doubled(selection, T1), Listening(n=96, max_steps=3)
    torch.manual_seed(0)
    model = with_lora(job, 2, 16.0, 0.0)
    gates = method._gates(list(lora_layers(model)))
    attach_gates(model, gates)
    gates.open()
    model.train()
    layers = gated_layers(model).values()
    factors = [p for layer in layers for p in (layer.A, layer.B)]
    head = [p for p in trainable(model) if all(p is not q for q in factors)]

    def adamw(parameters):
        return torch.optim.AdamW(parameters, lr=1e-2, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1)

    parts = method.parts(job)
    batches = iter(parts.lower)
    optimizers = [adamw(factors), adamw(head)]

    def steps():
        for _ in range(T1):
            for optimizer in optimizers:
                optimizer.zero_grad()
            model(**next(batches)).loss.backward()
            for optimizer in optimizers:
                optimizer.step()

    torch.manual_seed(99)
    steps()
    with torch.no_grad():
        for layer in layers:
            U, sigma, Vh = torch.linalg.svd(layer.B @ layer.A)
            layer.B.copy_(U[:, :2] * sigma[:2].sqrt())
            layer.A.copy_(sigma[:2].sqrt()[:, None] * Vh[:2])
        gates.logits.add_(shift)
    gates.learn()
    optimizers[0] = adamw(factors)
    steps()
    with torch.no_grad():
        return model(**next(iter(parts.upper))).loss


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("T1", [1, 4])
def test_unrolled_is_the_derivative_of_the_steps_after_a_turn(selection, T1):
    """Within 1e-5 of central differences (h = 1e-5) of whole runs, in float64."""
    h = 1e-5
    expected = torch.zeros(8, dtype=torch.float64)
    for index in range(8):
        shift = torch.zeros(8, dtype=torch.float64)
        shift[index] = h
        plus, minus = (plain_run(s.view(4, 2), selection, T1) for s in (shift, -shift))
        expected[index] = (plus - minus) / (2 * h)
    found = {}
    for estimator in (Unrolled(), NoHypergradient()):
        job = Listening(estimator, n=96, max_steps=3)
        train(doubled(selection, T1), job)
        (gradient,) = job.gradients
        found[estimator.name] = gradient.flatten()
    error = (found["unrolled"] - expected).norm()
    assert error < 1e-5 * expected.norm()
    assert error < 1e-2 * (expected - found["none"]).norm(), "the implicit term is not seen"


# ---------------------------------------------------------------- the cut


class Judge(SmallJob):
    """To whom the first ``needed`` components lose a nat each when they are missing."""

    def __init__(self, needed, **options):
        super().__init__(Unrolled(), **options)
        self.needed = needed
        self.judged = []

    def losses(self, model, rows):
        self.judged = list(rows)
        kept = sum(
            int((layer.lora_B["default"].weight != 0).any(0).sum())
            for layer in lora_layers(model).values()
        )
        missing = max(0, self.needed - kept)
        noise = np.random.default_rng(0).normal(0, 0.01, len(rows))
        return Losses(missing + 1.0 + noise, np.ones(len(rows), dtype=int))


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("needed", [1, 5])
def test_without_a_budget_the_frontier_chooses_the_fewest_that_lose_nothing(selection, needed):
    job = Judge(needed, n=64, epochs=8)
    outcome = train(quick(selection=selection, parameter_budget=None, hold_out=0.2), job)
    assert sum(outcome.ranks.values()) == needed
    assert {id(r) for r in job.judged} == {id(r) for r in job.runs[0]["validation"]}


def test_where_nothing_was_learned_all_stays_and_is_said():
    outcome = train(quick(parameter_budget=None, hold_out=0.2), Judge(0, n=64, epochs=8))
    assert set(outcome.ranks.values()) == {4}
    assert outcome.cut.frontier.learned is False
    assert outcome.cut.ranks is None


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize(("budget", "components"), [(0.5, 8), (100, 3), (32, 1)])
def test_a_budget_is_a_share_or_a_number_of_parameters(selection, budget, components):
    """16 components of 32 parameters."""
    job = SmallJob(Unrolled(), n=64, epochs=8)
    outcome = train(quick(selection=selection, parameter_budget=budget), job)
    assert sum(outcome.ranks.values()) == components


@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_kept_factors_go_on_from_where_they_were(selection):
    job = SmallJob(Unrolled(), n=64, epochs=8)
    outcome = train(quick(selection=selection, parameter_budget=0.25), job)
    searched, finished = job.runs
    config = outcome.model.peft_config["default"]
    assert set(config.target_modules) == {n for n, rank in outcome.ranks.items() if rank}
    for name, module in lora_layers(outcome.model).items():
        assert module.scaling["default"] == pytest.approx(4.0)
        assert module.r["default"] == outcome.ranks[name]
    # Before its first step the second stage computes what the first ended with, cut: of a layer
    # the largest components stay.
    model, cut = outcome.model, searched["model"]
    assert any(
        not torch.equal(p, finished["before"][n])
        for n, p in model.named_parameters()
        if "lora_" in n
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(finished["before"][name])
        for name, layer in lora_layers(cut).items():
            A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            by_size = (B.norm(dim=0) * A.norm(dim=1)).argsort(descending=True)
            B[:, by_size[outcome.ranks[name] :]] = 0
    torch.testing.assert_close(logits_of(model, job), logits_of(cut, job), rtol=0, atol=1e-6)


def test_hard_concrete_gates_reach_the_budget():
    density = []
    job = Watched(
        lambda problems: density.append(float(problems[0].rounds.density())),
        NoHypergradient(),
        max_steps=160,
    )
    train(quick(selection="hard_concrete", parameter_budget=0.25, unroll_steps=1), job)
    assert density[0] > 0.99
    assert abs(density[-1] - 0.25) < 0.03


# ---------------------------------------------------------------- resuming


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
def test_a_resumed_search_ends_as_one_left_alone(tmp_path, selection, stop):
    """8 global steps: plain to 2, turns before 2, 4, with T1 = 2; the search ends at 6."""
    method = quick(selection=selection, rotate_every=2)
    options = {"n": 64, "epochs": 99, "max_steps": 8}
    assert_resumes_exactly(method, tmp_path / "state", stop, hypergradient=Unrolled(), **options)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"selection": "gumbel"}, "selection=gumbel.*hard_concrete"),
        ({"parameter_budget": 1.5}, "parameter_budget=1.5"),
        ({"parameter_budget": 0}, "parameter_budget=0"),
        ({"start": 0.7, "end": 0.3}, r"method\.start=0.7.*method\.end"),
        ({"warmup_steps": 3}, "warmup_steps=3.*start"),
        ({"roll_back": True, "selection": "hard_concrete"}, "hard_concrete.*roll"),
        ({"unroll_steps": 0}, "unroll_steps=.*1 or more"),
        ({"rotate_every": 0}, "rotate_every=.*1 or more"),
        ({"hold_out": 1.0}, r"hold_out=.*in \[0, 1\)"),
    ],
)
def test_wrong_settings_are_named(options, words):
    with pytest.raises(UserError, match=words):
        AutoLoRASingular(**options)


def test_without_anything_to_choose_by_the_options_are_named():
    words = r"method\.hold_out.*validation file.*method\.parameter_budget"
    with pytest.raises(UserError, match=words):
        AutoLoRASingular(hold_out=0.0).check_validation(0, 8)
    AutoLoRASingular(hold_out=0.0).check_validation(50, 8)
    AutoLoRASingular(hold_out=0.1).check_validation(0, 8)
    AutoLoRASingular(hold_out=0.0, parameter_budget=0.5).check_validation(0, 8)
    with pytest.raises(UserError, match=words):  # D_val is trained on
        AutoLoRASingular(hold_out=0.0, split=None).check_validation(50, 8)


def test_a_budget_below_one_component_is_said_before_the_search():
    job = SmallJob(n=64, epochs=8)
    with pytest.raises(UserError, match=r"parameter_budget=31.*32"):
        train(quick(parameter_budget=31), job)
    assert job.runs == []


def test_too_few_steps_or_examples_are_said():
    settings = SmallJob(epochs=1).settings
    with pytest.raises(UserError, match=r"2 global steps.*epochs"):
        quick().check_steps(16, dataclasses.replace(settings, epochs=2))
    with pytest.raises(UserError, match=r"hold_out=0.01.*parameter_budget"):
        quick(hold_out=0.01).check_size(50, 8)


def test_the_closed_form_estimator_is_refused_with_drawn_gates():
    with pytest.raises(UserError, match=r"alignment.*random"):
        AutoLoRASingular(selection="hard_concrete").check_hypergradient(Alignment())
    AutoLoRASingular().check_hypergradient(Alignment())


@pytest.mark.parametrize(
    ("options", "examples", "said"),
    [
        ({"criterion": "activation"}, 0, "no examples.*activation orders by 4"),
        ({"criterion": "activation"}, 3, "3 examples.*activation orders by 4"),
        ({"parameter_budget": None}, 1, "1 examples.*chosen by 2.*parameter_budget"),
    ],
)
def test_what_a_cut_without_hold_out_lacks_is_said(options, examples, said):
    method = quick(**{"hold_out": 0.0, "parameter_budget": 0.25, **options})
    with pytest.raises(UserError, match=f"hold_out=0 leaves {said}") as found:
        method.check_validation(examples, 16)
    assert ("parameter_budget" in str(found.value)) == ("criterion" not in options)


def test_a_told_budget_needs_no_examples():
    for examples in (0, 1, 5):
        quick(hold_out=0.0, parameter_budget=0.25).check_validation(examples, 16)
