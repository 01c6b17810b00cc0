"""AdaLoRA: its budget, its scores and masks by hand, PEFT's loss, and plain LoRA at the end."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel

from bilevel import UserError
from bilevel.lowrank import export_adapter
from bilevel.lowrank.layers import lora_layers
from problems.adalora import AdaLoRA
from problems.adalora.levels import adalora_layers
from tests.problems.jobs import SmallJob, logits_of, train
from tests.problems.resuming import assert_resumes_exactly


class Job(SmallJob):
    """Records parameters, gradients, masks and budgets after every optimiser step."""

    def run(self, training):
        (problem,), model = training.problems, training.model
        self.problem = problem
        self.seen = []
        allocate = problem.param_callback

        def recorded():
            before = {
                n: (p.detach().clone(), p.grad.clone())
                for n, p in model.get_base_model().named_parameters()
                if "lora_" in n
            }
            allocate()
            values = training.gates.values().detach().clone()
            step = {"parts": before, "values": values, "watch": training.watch()}
            self.seen.append(step)

        problem.param_callback = recorded
        stats = super().run(training)
        self.logits = logits_of(model, self)
        self.ranknum = {
            n: (x.ranknum["default"].item(), x.scaling["default"])
            for n, x in adalora_layers(model).items()
        }
        return stats


# 2 layers, query and value: 4 matrices of 6 components, 4 on average at the end; 30 steps
METHOD = AdaLoRA(rank=4, initial_share=0.2, final_share=0.3, interval=3)
FIRST, LAST, T = 6, 21, 30  # t_i, T - t_f, T


def test_the_budget_falls_cubically_and_the_survivors_with_it():
    job = Job(epochs=5)
    train(METHOD, job)
    assert len(job.seen) == T
    budgets = [step["watch"]["budget"] for step in job.seen]
    assert budgets[:FIRST] == [24] * FIRST, "b(t_i) = b_0"
    assert budgets[LAST - 1 :] == [16] * (T - LAST + 1), "b(T - t_f) = b_T"
    assert budgets == sorted(budgets, reverse=True)
    for t in range(FIRST + 1, LAST):
        exact = 16 + 8 * (1 - (t - FIRST) / (LAST - FIRST)) ** 3
        assert exact - 1 < budgets[t - 1] <= exact
    for t, (step, budget) in enumerate(zip(job.seen, budgets, strict=True), start=1):
        alive = int((step["values"] != 0).sum())
        allocated = FIRST < t <= LAST and (t % 3 == 0 or t == LAST)
        if t > FIRST and (allocated or t > LAST):
            assert alive == budget, t
        else:
            assert alive == 24 or t == 1, t  # between allocations all of them learn
    final = [step["values"] != 0 for step in job.seen[LAST - 1 :]]
    assert all(torch.equal(mask, final[0]) for mask in final), "the last mask stays"


def test_masks_are_the_most_important_components_of_all_matrices():
    """Scores by the paper's formulas from recorded weights and gradients; sorting for the top."""
    job = Job(epochs=5)
    train(METHOD, job)
    smooth, variation = {}, {}
    compared = 0
    for t, step in enumerate(job.seen, start=1):
        if t < LAST:
            for name, (w, g) in step["parts"].items():
                now = (w * g).abs()
                smooth[name] = 0.85 * smooth.get(name, 0.0) + 0.15 * now
                change = (now - smooth[name]).abs()
                variation[name] = 0.85 * variation.get(name, 0.0) + 0.15 * change
        if t <= FIRST or t > LAST or (t % 3 and t != LAST):
            continue
        scores = []
        for name in job.problem.layers:
            value, row, column = (
                smooth[f"{name}.lora_{part}.default"] * variation[f"{name}.lora_{part}.default"]
                for part in "EAB"
            )
            scores.append(value[:, 0] + row.mean(1) + column.mean(0))
        scores = torch.stack(scores)
        order = scores.flatten().argsort(descending=True)[: step["watch"]["budget"]]
        expected = torch.zeros(24, dtype=torch.bool)
        expected[order] = True
        assert torch.equal(step["values"] != 0, expected.view(4, 6)), t
        compared += 1
    assert compared == 5


def test_the_loss_is_pefts_own():
    seen = {}

    class Listening(Job):
        def run(self, training):
            stats = super().run(training)
            model = training.model.eval()
            batch = self.data.collate(list(self.data.examples[:8]))
            with torch.no_grad():
                seen["ours"] = training.problems[0].training_step(dict(batch))
                seen["peft"] = model(**batch).loss
                seen["task"] = model.get_base_model()(**batch).loss
            return stats

    train(AdaLoRA(rank=4, gamma=0.5), Listening(epochs=2))
    torch.testing.assert_close(seen["ours"], seen["peft"], rtol=0, atol=1e-6)
    assert seen["ours"] > seen["task"] + 0.1


def test_an_optimiser_step_is_a_step_whatever_the_micro_batches():
    job = Job(n=96, epochs=5, gradient_accumulation=2)
    train(METHOD, job)
    budgets = [step["watch"]["budget"] for step in job.seen]
    whole = Job(epochs=5)
    train(METHOD, whole)
    assert budgets == [step["watch"]["budget"] for step in whole.seen]


def test_the_outcome_is_plain_lora_at_the_survivors_ranks(tmp_path):
    job = Job(epochs=5, lr=5e-2)
    outcome = train(METHOD, job)
    alive = (job.seen[-1]["values"] != 0).sum(1).tolist()
    assert list(outcome.ranks.values()) == alive
    assert sum(alive) == 16
    assert len(set(alive)) > 1, "the matrices differ"
    assert outcome.trainable_parameters == 4 * 6 * (16 + 16 + 1) + 16 * 2 + 2
    assert set(job.ranknum.values()) == {(6.0, 32.0)}, "the scale is alpha / r_0 to the end"
    for name, layer in lora_layers(outcome.model).items():
        assert layer.scaling["default"] == pytest.approx(32 / (6 + 1e-5))
        assert layer.r["default"] == outcome.ranks[name]
    report = export_adapter(outcome.model, tmp_path)
    assert {n: r for n, r in outcome.ranks.items() if r} == report.ranks
    for folder in (report.adapter, report.compact):
        loaded = PeftModel.from_pretrained(job.build_model(), str(folder))
        torch.testing.assert_close(logits_of(loaded, job), job.logits, rtol=0, atol=1e-5)
    assert not torch.allclose(logits_of(job.build_model(), job), job.logits, atol=1e-3)


@pytest.mark.parametrize("stop", [4, 13, 21, 25])
def test_resuming_is_exact(stop, tmp_path):
    """At the full budget, between two allocations, at the final mask, and after it."""
    assert_resumes_exactly(METHOD, tmp_path / "state.safetensors", stop, epochs=5)


@pytest.mark.parametrize("steps", [2, 3, 5, 10])
def test_the_shortest_trainings_have_a_schedule(steps):
    job = Job(max_steps=steps, epochs=5)
    outcome = train(AdaLoRA(rank=2), job)
    assert 0 < sum(outcome.ranks.values()) <= 8


def test_one_step_is_too_few():
    with pytest.raises(UserError, match=r"2 optimiser steps.*train\.epochs"):
        train(AdaLoRA(rank=2), Job(max_steps=1))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": 17}, r"^rank 17 .*1 and 16.*query"),
        ({"rank": 11}, r"method\.initial_rank \(null: 1\.5 times method\.rank=11\) 17 .*1 and 16"),
        ({"rank": 2, "initial_rank": 17}, r"method\.initial_rank 17 .*1 and 16"),
    ],
)
def test_no_rank_is_larger_than_a_layer(options, words):
    job = SmallJob()
    layers = [f"bert.encoder.layer.0.attention.self.{name}" for name in job.target_modules]
    with pytest.raises(UserError, match=words):
        AdaLoRA(**options).check_model(job.build_model(), layers)
    for fits in (AdaLoRA(), AdaLoRA(rank=10), AdaLoRA(rank=2, initial_rank=16)):
        fits.check_model(job.build_model(), layers)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"initial_rank": 8}, "initial_rank=8.*more than"),
        ({"lora_alpha": 0.0}, "lora_alpha=.*more than 0"),
        ({"gamma": -0.1}, "gamma=.*0 or more"),
        ({"beta1": 1.0}, r"beta1=.*in \(0, 1\)"),
        ({"beta2": 0.0}, r"beta2=.*in \(0, 1\)"),
        ({"final_share": 0.9}, "final_share=0.9.*less than 1"),
        ({"initial_share": -0.1}, "initial_share=.*0 or more"),
        ({"interval": 0}, "interval=.*1 or more"),
        ({"rank": 0}, "rank=.*1 or more"),
    ],
)
def test_wrong_settings_are_named(options, words):
    with pytest.raises(UserError, match=words):
        AdaLoRA(**options)
