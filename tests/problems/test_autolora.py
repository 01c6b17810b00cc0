"""AutoLoRA: its levels own the right parameters, its splits are disjoint, its ranks are applied."""

from __future__ import annotations

import pytest
import torch

from bilevel import UserError
from bilevel.hypergradient import Alignment, NoHypergradient, Unrolled
from bilevel.lowrank import Gates
from problems import AutoLoRA
from tests.problems.jobs import SmallJob, train


def test_the_three_stages_give_plain_lora_at_the_searched_ranks():
    job = SmallJob(epochs=2)
    outcome = train(AutoLoRA(rank=4), job)
    assert job.stages == ["search", "retrain"]
    assert set(outcome.ranks) == {
        f"bert.encoder.layer.{layer}.attention.self.{part}"
        for layer in (0, 1)
        for part in ("query", "value")
    }
    config = outcome.model.peft_config["default"]
    for name, module in outcome.model.get_base_model().named_modules():
        if name in outcome.ranks:
            A = module.lora_A["default"].weight
            assert A.shape[0] == outcome.ranks[name] == module.r["default"]
            assert module.scaling["default"] == pytest.approx(16 / outcome.ranks[name])
    assert config.peft_type.value == "LORA"
    assert outcome.validation_loss == 0.5


def test_each_level_owns_its_own_parameters_and_trains_them():
    job = SmallJob()
    train(AutoLoRA(rank=4), job)
    lower, upper = job.runs[0]["problems"]
    names = {id(p): n for n, p in lower.module.named_parameters()}
    owned = {names[id(p)] for p in lower.trainable_parameters()}
    assert all("lora_" in name or "classifier" in name for name in owned)
    assert any("classifier" in name for name in owned)
    assert [tuple(p.shape) for p in upper.trainable_parameters()] == [(4, 4)]
    assert not {id(p) for p in upper.trainable_parameters()} & set(names)
    assert not torch.equal(upper.module.logits, torch.zeros(4, 4)), "beta did not move"
    after = dict(lower.module.named_parameters())
    for name, value in job.runs[0]["before"].items():
        assert torch.equal(after[name], value) != (name in owned), name


def test_the_search_splits_and_the_retraining_sees_all_of_the_training_data():
    job = SmallJob(n=50)
    outcome = train(AutoLoRA(rank=2, split=0.7), job)
    assert outcome.split == {"train": 35, "validation": 15}
    lower, upper = job.runs[0]["problems"]
    first = set(lower.train_data_loader[0].indices)
    second = set(upper.train_data_loader[0].indices)
    assert not first & second
    assert first | second == set(range(50))
    assert len(job.runs[0]["validation"]) == 15
    retrain = job.runs[1]["problems"][0].train_data_loader[0]
    assert retrain.indices is None or sorted(retrain.indices) == list(range(50))


def test_steps_follow_from_epochs_batches_and_unroll_steps():
    job = SmallJob(n=64, epochs=3)
    train(AutoLoRA(rank=2, unroll_steps=2, upper_steps=3, search_epochs=2), job)
    lower, upper = job.runs[0]["problems"]
    assert job.runs[0]["steps"] == 4  # 2 epochs of 32 examples in batches of 8, two at a time
    assert lower.count == 8
    assert upper.count == 12
    assert job.runs[1]["steps"] == 24


@pytest.mark.parametrize("estimator", [NoHypergradient(), Unrolled(), Alignment()])
def test_estimators_change_the_learned_selection(estimator):
    other, mine = SmallJob(epochs=2), SmallJob(estimator, epochs=2)
    train(AutoLoRA(rank=4, unroll_steps=2), other)
    train(AutoLoRA(rank=4, unroll_steps=2), mine)
    a, b = (job.runs[0]["gates"].logits for job in (other, mine))
    assert torch.isfinite(b).all()
    assert not torch.equal(a, b)


def test_ablations_are_settings():
    gates = Gates(["a", "b"], 4, "real")
    with torch.no_grad():
        gates.logits.copy_(torch.tensor([[3.0, 1.0, 0.0, 0.0], [1.0, 1.1, 0.9, -3.0]]))
    unconstrained = AutoLoRA(rank=4, gate="real", rank_rule="mean")
    assert unconstrained.derive_ranks(gates, {}) == {"a": 2, "b": 3}  # entries of at least the mean
    gates = Gates(["a", "b"], 4, "sigmoid")
    with torch.no_grad():
        gates.logits.copy_(torch.tensor([[3.0, 1.0, -1.0, -2.0], [-1.0, -1.0, -1.0, -1.0]]))
    sigmoid = AutoLoRA(rank=4, gate="sigmoid", rank_rule="fixed")
    assert sigmoid.derive_ranks(gates, {}) == {"a": 2, "b": 0}


def test_paper_and_released_rank_rules_differ():
    gates = Gates(["a"], 4, init=1.0)
    with torch.no_grad():
        gates.logits.copy_(torch.tensor([[3.0, 1.4, 1.3, 0.0]]))
    assert AutoLoRA(rank=4).derive_ranks(gates, {}) == {"a": 1}  # softmax: .72 .15 .13 .04
    assert AutoLoRA(rank=4, rank_rule="raw_share").derive_ranks(gates, {}) == {"a": 1}
    with torch.no_grad():
        gates.logits.copy_(torch.tensor([[3.0, 2.0, 1.0, 0.0]]))
    assert AutoLoRA(rank=4, rank_rule="raw_share").derive_ranks(gates, {}) == {"a": 2}
    assert AutoLoRA(rank=4).derive_ranks(gates, {}) == {"a": 1}


@pytest.mark.parametrize("budget", [100, 0.4])
def test_a_budget_bounds_the_parameters_of_the_kept_components(budget):
    """Of 240 in all, 100 or two fifths."""
    gates = Gates(["a", "b"], 4)
    with torch.no_grad():
        gates.logits.copy_(torch.tensor([[2.0, 0.0, 0.0, 0.0], [0.5, 0.4, 0.3, 0.0]]))
    method = AutoLoRA(rank=4, rank_rule="budget", parameter_budget=budget)
    ranks = method.derive_ranks(gates, {"a": 30, "b": 30})
    assert sum(30 * rank for rank in ranks.values()) <= 100
    assert sum(ranks.values()) == 3


def test_a_layer_of_rank_zero_gets_no_adapter():
    job = SmallJob()
    method = AutoLoRA(rank=4)
    chosen = {
        "bert.encoder.layer.0.attention.self.query": 0,
        "bert.encoder.layer.0.attention.self.value": 3,
        "bert.encoder.layer.1.attention.self.query": 1,
        "bert.encoder.layer.1.attention.self.value": 2,
    }
    options = method.lora_options(chosen, job)
    assert "bert.encoder.layer.0.attention.self.query" not in options["target_modules"]


def test_no_layer_left_names_the_way_out():
    method = AutoLoRA(rank=2, gate="sigmoid", rank_rule="fixed")
    with pytest.raises(UserError, match=r"rank_rule=fixed.*threshold"):
        method.lora_options({"a": 0, "b": 0}, SmallJob())


def test_dropout_of_the_retraining_can_differ_from_the_searchs():
    """As in the released code: none in the search, 0.1 in the retraining."""
    for given, expected in ((0.1, 0.1), (None, 0.2)):
        job = SmallJob()
        train(AutoLoRA(rank=2, lora_dropout=0.2, retrain_dropout=given), job)
        search, retrain = (run["model"].peft_config["default"] for run in job.runs)
        assert (search.lora_dropout, retrain.lora_dropout) == (0.2, expected)


def test_constant_scale_keeps_alpha_over_k():
    job = SmallJob()
    method = AutoLoRA(rank=4, lora_alpha=8, retrain_scale="constant")
    outcome = train(method, job)
    for name, module in outcome.model.get_base_model().named_modules():
        if name in outcome.ranks:
            assert module.scaling["default"] == pytest.approx(2.0)


@pytest.mark.parametrize(("T1", "warmup"), [(1, 0), (2, 0), (2, 4), (3, 5)])
def test_the_schedule_ends_with_the_search_also_with_roll_back(T1, warmup):
    """After a roll-back one step of T1 stands, and the schedule counts those that stand."""
    for roll_back in (False, True):
        job = SmallJob(n=64, epochs=3)
        train(AutoLoRA(rank=2, unroll_steps=T1, warmup_steps=warmup, roll_back=roll_back), job)
        lower, _ = job.runs[0]["problems"]
        assert lower.count == T1 * job.runs[0]["steps"]
        assert lower.optimizer.param_groups[0]["lr"] == 0.0
        before_last = lower.scheduler.lr_lambdas[0](lower.scheduler.last_epoch - 1)
        assert before_last > 0.0, "it ended too early"


def test_a_budget_below_one_component_is_said_before_the_search():
    job = SmallJob()
    with pytest.raises(UserError, match=r"parameter_budget=31.*32"):
        train(AutoLoRA(rank=2, rank_rule="budget", parameter_budget=31), job)
    assert job.runs == []


def test_roll_back_is_passed_on():
    seen = {}

    class Watching(SmallJob):
        def run(self, training):
            seen.setdefault("first", training.roll_back)
            return super().run(training)

    train(AutoLoRA(rank=2, roll_back=True), Watching())
    assert seen["first"] is True


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank_rule": "best"}, "rank_rule=best.*threshold"),
        ({"rank_rule": "budget"}, "parameter_budget"),
        ({"parameter_budget": 10}, "rank_rule=budget"),
        ({"gate": "hard_concrete"}, "gate=hard_concrete.*sigmoid"),
        ({"split": 1.0}, r"split=.*in \(0, 1\)"),
        ({"unroll_steps": 0}, "unroll_steps=.*1 or more"),
        ({"search_epochs": 0.0}, "search_epochs=.*more than 0"),
        ({"lora_dropout": 1.0}, r"lora_dropout=.*in \[0, 1\)"),
        ({"rank": 0}, "rank=.*1 or more"),
        ({"retrain_scale": "big"}, "retrain_scale=big.*constant"),
    ],
)
def test_wrong_settings_are_named(options, words):
    with pytest.raises(UserError, match=words):
        AutoLoRA(**options)


def test_each_side_of_the_split_needs_a_batch():
    AutoLoRA(split=0.5).check_size(32, 16)
    with pytest.raises(UserError, match=r"method.split=0.5.* 20 .*10 and 10"):
        AutoLoRA(split=0.5).check_size(20, 16)
    with pytest.raises(UserError, match=r"train\.batch_size=16"):
        AutoLoRA().check_size(10, 16)
