"""LoRA cut by what was held out: against an SVD of the dense updates, in float64."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from peft import PeftModel
from torch import nn

from bilevel import UserError
from bilevel.cutting import CRITERIA, Criterion
from bilevel.cutting.criteria import Singular
from bilevel.data import split
from bilevel.lowrank import export_adapter
from problems import LoRA, LoRACut
from problems.lora import held_apart, rows_apart
from problems.lora_settings import ModuleSettings
from tests.problems.jobs import ExactJob, SmallJob, logits_of, train

K, COST = 4, 32  # rank of the training; parameters of a component of a 16 x 16 layer
CUT = LoRACut(rank=K, hold_out=0.25, delta=0.1, examples=64)
DOUBLED = ModuleSettings(scale={"bert.encoder.layer.0.attention.self.query": 2.0}, temperature=1.5)


class Job(ExactJob):
    """Trains long enough that there is something to cut; says which rows its losses were of."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"n": 96, "epochs": 12, "lr": 2e-2, **settings})
        drawn = random.Random(self.seed)
        examples = []
        for _ in range(96):  # six tokens, of which the first two say the class
            ids = [drawn.randrange(2, 8) for _ in range(5)]
            examples.append({"input_ids": ids, "labels": int(ids[0] + ids[1] > 9)})
        self.data = replace(
            self.data,
            examples=examples,
            labels=[row["labels"] for row in examples],
            lengths=[5] * 96,
        )
        self.asked: list[list[int]] = []

    def losses(self, model: Any, rows: Any) -> Any:
        known = {id(row): i for i, row in enumerate(self.data.examples)}
        self.asked.append([known.get(id(row), -1) for row in rows])
        return super().losses(model, rows)

    def parts(self) -> tuple[list[int], list[int]]:
        """What is trained on and what is held out."""
        return split(96, 0.75, self.seed, self.data.labels)


def dense_updates(model: Any) -> dict[str, torch.Tensor]:
    """Layer -> s B A as one matrix."""
    found = {}
    for name, module in model.get_base_model().named_modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            A, B = module.lora_A["default"].weight, module.lora_B["default"].weight
            found[name] = (module.scaling["default"] * B @ A).detach()
    return found


def threshold(updates: dict[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
    """The ``count`` largest singular values of all layers together, as dense matrices."""
    forms = {name: torch.linalg.svd(update) for name, update in updates.items()}
    sizes = torch.cat([form.S[:K] for form in forms.values()]).sort(descending=True).values
    least = sizes[count - 1] * (1 - 1e-9)
    return {
        name: (U * S.where(S.ge(least), torch.zeros_like(S))) @ Vh
        for name, (U, S, Vh) in forms.items()
    }


def with_updates(job: Job, updates: dict[str, torch.Tensor], head: dict[str, torch.Tensor]) -> Any:
    """The base model with dense matrices added to its weights."""
    model = job.build_model()
    for name, update in updates.items():
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        layer.weight.data += update
    model.classifier.load_state_dict(head)
    return model


def head_of(model: Any) -> dict[str, torch.Tensor]:
    return model.get_base_model().classifier.modules_to_save["default"].state_dict()


@pytest.fixture(scope="module")
def whole() -> Any:
    """The same training without a cut."""
    return train(LoRA(rank=K, hold_out=0.25), Job()).model


@pytest.fixture(scope="module")
def outcome() -> Any:
    return train(CUT, Job())


def test_the_saved_adapter_is_one_threshold_over_all_layers(whole, outcome, tmp_path):
    job = Job()
    count = sum(outcome.ranks.values())
    assert 0 < count < 4 * K
    assert outcome.cut.ranking.cost(outcome.keep) == count * COST
    expected = logits_of(
        with_updates(job, threshold(dense_updates(whole), count), head_of(whole)), job
    )
    report = export_adapter(outcome.model, tmp_path, keep=outcome.keep)
    assert report.ranks == outcome.ranks == outcome.cut.ranks
    for folder in (report.adapter, report.compact):
        stock = PeftModel.from_pretrained(job.build_model(), str(folder))
        torch.testing.assert_close(logits_of(stock, job), expected, rtol=0, atol=1e-9)
    assert (logits_of(whole, job) - expected).abs().max() > 1e-4


def test_the_choice_is_the_smallest_that_loses_no_more_than_delta(whole, outcome):
    """Losses of dense truncations, on the examples that were held out and on no others."""
    job = Job()
    _, held = job.parts()
    rows = [job.data.examples[i] for i in held]
    updates = dense_updates(whole)

    def losses(count: int) -> torch.Tensor:
        kept = threshold(updates, count) if count else {n: 0 * u for n, u in updates.items()}
        return torch.from_numpy(job.losses(with_updates(job, kept, head_of(whole)), rows).totals)

    all_of_it, nothing = losses(4 * K), losses(0)
    delta = CUT.delta * (nothing - all_of_it).mean()
    assert outcome.cut.frontier.delta == pytest.approx(delta.item(), rel=1e-6)
    assert outcome.cut.frontier.examples == len(held) == 24

    def enough(count: int) -> bool:
        apart = losses(count) - all_of_it
        return bool(apart.mean() + CUT.errors * apart.std() / len(apart) ** 0.5 <= delta)

    chosen = outcome.cut.frontier.chosen
    assert enough(chosen)
    assert not enough(chosen - 1)
    assert outcome.cut.frontier.choice.loss == pytest.approx(losses(chosen).mean().item(), abs=1e-9)


def test_only_what_was_held_out_is_looked_at_with_the_errors_that_were_asked():
    job = Job(epochs=1)
    assert train(replace(CUT, errors=3.0), job).cut.frontier.errors == 3
    _, held = job.parts()
    assert job.asked
    assert {i for rows in job.asked for i in rows} == set(held)


def test_the_task_s_own_validation_split_in_its_place():
    job = Job(epochs=1)
    own = Job(seed=1).data.examples[:20]
    job.data = replace(job.data, validation=own)
    outcome = train(replace(CUT, hold_out=0.0), job)
    assert job.asked
    assert {i for rows in job.asked for i in rows} == {-1}
    assert outcome.cut.frontier.examples == 20
    assert outcome.cut_by == "the validation file"
    assert outcome.split == {"train": 96}


@pytest.mark.parametrize("budget", [2 * COST + 5, 2.1 / (4 * K)])
def test_a_budget_is_kept_with_ranks_of_0(budget, whole, tmp_path):
    """Of parameters, or as a share of all."""
    job = Job()
    outcome = train(replace(CUT, parameter_budget=budget), job)
    assert sorted(outcome.ranks.values())[:2] == [0, 0]
    assert sum(outcome.ranks.values()) == 2
    expected = with_updates(job, threshold(dense_updates(whole), 2), head_of(whole))
    report = export_adapter(outcome.model, tmp_path, keep=outcome.keep)
    stock = PeftModel.from_pretrained(job.build_model(), str(report.compact))
    torch.testing.assert_close(logits_of(stock, job), logits_of(expected, job), rtol=0, atol=1e-9)


@pytest.mark.parametrize("budget", [None, 2 * COST])
def test_finishing_goes_on_from_what_is_kept_on_all_of_the_data(whole, outcome, budget):
    job = Job()
    method = replace(CUT, finish_epochs=0.5, lora_dropout=0.0, parameter_budget=budget)
    finished = train(method, job)
    count = 2 if budget else sum(outcome.ranks.values())
    start = job.runs[1]["before"]
    kept = {n: m for n, m in threshold(dense_updates(whole), count).items() if m.abs().max() > 0}
    for name, update in kept.items():
        key = f"base_model.model.{name}"
        A, B = start[f"{key}.lora_A.default.weight"], start[f"{key}.lora_B.default.weight"]
        assert len(A) == finished.ranks[name]
        scale = finished.model.get_submodule(key).scaling["default"]
        torch.testing.assert_close(scale * B @ A, update, rtol=0, atol=1e-9)
    assert sum("lora_A" in name for name in start) == len(kept)
    (problem,) = job.runs[1]["problems"]
    assert sorted(problem.train_data_loader[0].indices) == list(range(96))
    assert len(job.runs[0]["problems"][0].train_data_loader[0].indices) == 72
    assert finished.validation_trained_on
    assert finished.keep is None
    after = dict(finished.model.named_parameters())
    assert any(not torch.equal(after[n], p) for n, p in start.items() if "lora_B" in n)
    if budget is None:  # the frontier is the one from before
        assert finished.cut.as_json() == outcome.cut.as_json()
        assert not outcome.validation_trained_on


def test_nothing_learned_keeps_all_of_it():
    outcome = train(CUT, Job(lr=1e-9, epochs=1))
    assert outcome.cut.frontier.learned is False
    assert outcome.cut.ranks is None
    assert outcome.keep is None
    assert set(outcome.ranks.values()) == {K}


SEEN: list[list[int]] = []


@dataclass(frozen=True)
class Looking(Criterion):
    """The singular order, by a criterion that looks at data."""

    name: ClassVar[str] = "looking"
    needs_data: ClassVar[bool] = True

    def score(self, model, data):
        SEEN.append([row.tolist() for batch in data.batches for row in batch["input_ids"]])
        data.losses()
        return Singular().score(model, None)


def test_a_criterion_with_data_has_half_of_it_to_itself(monkeypatch, capsys):
    monkeypatch.setitem(CRITERIA, "looking", Looking)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    SEEN.clear()
    job = Job(epochs=1)
    outcome = train(replace(CUT, criterion="looking"), job)
    _, held = job.parts()
    scoring, drawing = set(job.asked[0]), {i for rows in job.asked[1:] for i in rows}
    assert scoring.isdisjoint(drawing)
    assert scoring | drawing == set(held)
    assert len(scoring) == len(drawing) == 12
    assert len(SEEN[0]) == 12
    told = [job.data.examples[i]["input_ids"] for i in scoring]
    padded = {tuple(t for t in row if t) for row in SEEN[0]}
    assert padded == {tuple(ids) for ids in told}
    bars = capsys.readouterr().err  # of a terminal
    assert "criterion looking: 1part" in bars
    assert "frontier: 100%" in bars
    assert outcome.cut.criterion == "looking"
    assert outcome.cut.frontier.examples == 12


@pytest.mark.parametrize(
    ("change", "examples", "own", "said"),
    [
        ({"hold_out": 0.9}, 48, 0, r"hold_out=0\.9.*batch_size=8"),
        ({"hold_out": 0.01}, 48, 0, r"hold_out=0\.01.* 0 to cut by"),
        ({"hold_out": 0.0}, 48, 0, r"hold_out=0 .*here are none.*parameter_budget=N"),
        ({"hold_out": 0.0}, 48, 1, "hold_out=0 .*here are 1"),
        ({"hold_out": 0.0, "criterion": "looking"}, 48, 3, "hold_out=0 .* 4 examples.*here are 3"),
        ({"hold_out": 0.0, "criterion": "looking", "parameter_budget": 99}, 48, 0, "none"),
        ({"criterion": "looking", "hold_out": 0.05}, 48, 0, r"hold_out=0\.05.* and 4"),
        ({"criterion": "singulr"}, 48, 0, "criterion=singulr.*singular"),
        ({"ranks": "ranks.json"}, 48, 0, r"ranks=ranks\.json.*method=lora"),
        ({"settings": DOUBLED, "finish_epochs": 1.0}, 48, 0, "settings.*scale.*finish_epochs=0 "),
    ],
)
def test_what_is_refused_before_a_model_loads(change, examples, own, said, monkeypatch):
    monkeypatch.setitem(CRITERIA, "looking", Looking)
    monkeypatch.setattr(LoRA, "found_in_file", lambda method: None)

    def check():
        method = replace(CUT, **change)
        method.check_size(examples, 8)
        method.check_validation(own, 8)

    with pytest.raises(UserError, match=said) as caught:
        check()
    assert "\n" not in str(caught.value)


def test_scales_of_settings_stay_with_what_is_cut(tmp_path):
    """A whole budget cuts nothing, so what is saved computes what was trained."""
    settings = replace(DOUBLED, label_smoothing=0.1)
    method = replace(CUT, settings=settings, parameter_budget=4 * K * COST)
    job = Job(epochs=2)
    expected = logits_of(train(LoRA(rank=K, hold_out=0.25, settings=settings), job).model, job)
    outcome = train(method, Job(epochs=2))
    report = export_adapter(outcome.model, tmp_path, keep=outcome.keep)
    found = PeftModel.from_pretrained(job.build_model(), str(report.compact))
    torch.testing.assert_close(logits_of(found, job), expected, rtol=0, atol=1e-5)


def test_a_budget_alone_needs_no_examples():
    method = replace(CUT, hold_out=0.0, parameter_budget=5 * COST)
    method.check_size(48, 8)
    method.check_validation(0, 8)
    outcome = train(method, Job(epochs=1))
    assert outcome.cut.frontier is None
    assert sum(outcome.ranks.values()) == 5


@pytest.mark.parametrize("budget", [COST - 1, 4 * K * COST + 1])
def test_a_budget_of_less_than_one_component_or_more_than_all(budget):
    job = Job()
    with pytest.raises(UserError, match=rf"parameter_budget={budget}.* {COST} .* {4 * K * COST} "):
        train(replace(CUT, parameter_budget=budget), job)
    assert not job.runs


def test_a_told_budget_needs_no_examples_nor_many():
    for examples in (0, 1, 2):
        LoRACut(hold_out=0.0, parameter_budget=100).check_validation(examples, 8)


def test_held_out_rows_that_stand_in_a_trained_d_val_are_left_out():
    job = SmallJob(n=40)
    _, held = held_apart(job, 0.2)
    twin = dict(job.data.examples[held[0]])
    job.data = replace(job.data, validation=[twin])
    rows, said = rows_apart(job, 0.2, own=False)
    assert len(rows) == len(held) - 1
    assert "but for 1" in said
    assert len(rows_apart(job, 0.2, own=True)[0]) == len(held)
