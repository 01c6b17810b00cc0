"""An optimiser step of several micro-batches is the step on all of their examples at once."""

import json

import pytest
import torch
from torch import nn

from bilevel import LowerProblem, ResumableLoader
from bilevel.callbacks import MetricsWriter
from bilevel.hypergradient import (
    BettyDarts,
    ConjugateGradient,
    FiniteDifference,
    Neumann,
    NoHypergradient,
    Sama,
    Unrolled,
    check,
)
from bilevel.micro_batches import count_terms
from tests.bilevel.levels import alone, classify, linear
from tests.bilevel.toys import STRICT, Recorder, dataset, flat, stack
from tests.bilevel.uneven import LowerTags, collate, tagged, uneven_levels

pytestmark = STRICT

ESTIMATORS = [
    NoHypergradient(),
    FiniteDifference(difference="central"),
    FiniteDifference(difference="forward", scale="inner_lr"),
    FiniteDifference(difference="central", point="after"),
    BettyDarts(),
    Sama(),
    Neumann(iterations=2, alpha=0.5),
    ConjugateGradient(iterations=3),
    Unrolled(),
    Unrolled(depth=1),
    Unrolled(product="central_difference"),
]


def outcome(estimator, **options):
    engine, lower, upper = uneven_levels(estimator, **options)
    recorder = Recorder(upper)
    engine.run()
    return flat([*recorder.grads[-1], *lower.trainable_parameters(), *upper.trainable_parameters()])


@pytest.mark.parametrize("T1", [1, 2])
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_every_split_of_a_step_gives_its_gradient(estimator, T1):
    whole = outcome(estimator, unroll_steps=T1)
    for batch_size, gas in ((4, 2), (2, 4), (1, 8)):
        parts = outcome(estimator, batch_size=batch_size, gas=gas, unroll_steps=T1)
        assert torch.allclose(parts, whole, rtol=1e-9, atol=1e-12), (batch_size, gas)


def test_terms_are_counted_before_the_batch_goes_to_the_device(monkeypatch):
    """Counting there would wait for it, once a micro-batch."""
    on_device = []

    def to_device(batch, device):
        moved = {name: value.clone() for name, value in batch.items()}
        on_device.extend(moved.values())  # alive, so that no other takes its place
        return moved

    counted = []

    def count(modules, batch):
        counted.append(list(batch.values()))
        return count_terms(batch)

    monkeypatch.setattr("bilevel.problem.to_device", to_device)
    monkeypatch.setattr("bilevel.problem.loss_terms", count)
    engine, *_ = uneven_levels(NoHypergradient(), batch_size=4, gas=2)
    engine.run()
    assert len(counted) >= 4
    moved = set(map(id, on_device))
    assert not any(id(value) in moved for batch in counted for value in batch)


def test_a_step_taken_again_is_split_the_same_way():
    whole = outcome(FiniteDifference(), roll_back=True)
    parts = outcome(FiniteDifference(), roll_back=True, batch_size=2, gas=4)
    assert torch.allclose(parts, whole, rtol=1e-9, atol=1e-12)


def test_uneven_last_micro_batch_counts_by_its_examples():
    """8 examples in micro-batches of 3, 3 and 2, against one batch of 8."""
    found = []
    for batch_size, gas in ((8, 1), (3, 3)):
        loader = ResumableLoader(dataset(8, 0), batch_size, stack, drop_last=False)
        engine, problem = alone(
            linear(), classify, {"gradient_accumulation": gas}, loader=loader, steps=2
        )
        engine.run()
        assert loader.epoch == 2
        found.append(flat(problem.trainable_parameters()))
    assert torch.allclose(*found, rtol=1e-12, atol=1e-14)


def test_a_step_ends_with_the_epoch():
    """5 batches and 2 a step: 2, 2, 1 in each epoch, and none of an epoch is left out."""
    seen = []

    def step(problem, batch):
        seen.append((problem.count, len(batch[0])))
        return classify(problem, batch)

    loader = ResumableLoader(dataset(20, 0), 4, stack)
    engine, problem = alone(linear(), step, {"gradient_accumulation": 2}, loader=loader, steps=6)
    engine.run()
    assert [count for count, _ in seen] == [1, 2, 3, 4, 5, 7, 8, 9, 10, 11]
    assert (loader.epoch, loader.position, problem.count) == (2, 0, 12)


@pytest.mark.parametrize("level", ["lower", "upper"])
def test_more_accumulation_than_an_epoch_has_takes_what_is_there(level):
    """Steps of 6 batches of 8 are those of 100 where there are 6: every one is the whole epoch."""
    found = []
    for gas in (6, 100):
        engine, lower, upper = uneven_levels(Unrolled(), gas=gas, steps=2)
        engine.run()
        loader = {"lower": lower, "upper": upper}[level].train_data_loader[0]
        assert loader.epoch == (4 if level == "lower" else 2)
        found.append(flat([*lower.trainable_parameters(), *upper.trainable_parameters()]))
    assert torch.equal(*found)


def test_a_plain_data_loader_ends_its_epoch_too():
    loader = torch.utils.data.DataLoader(dataset(12, 0), batch_size=4, collate_fn=stack)
    whole = torch.utils.data.DataLoader(dataset(12, 0), batch_size=12, collate_fn=stack)
    found = []
    for batches, gas in ((whole, 1), (loader, 5)):
        engine, problem = alone(
            linear(), classify, {"gradient_accumulation": gas}, loader=batches, steps=3
        )
        engine.run()
        found.append(flat(problem.trainable_parameters()))
    assert torch.allclose(*found, rtol=1e-12, atol=1e-14)


def test_a_micro_batch_without_a_target_takes_no_part():
    """Its loss is no number; together with others it is a batch like any other."""
    rows = tagged(8, 0)
    for row in rows[4:]:
        row["labels"][:] = -100
    found = []
    for batch_size, gas in ((8, 1), (4, 2)):

        class Tags(LowerProblem):
            def training_step(self, batch):
                logits = self.module(batch["x"])
                return nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())

        loader = ResumableLoader(rows, batch_size, collate, shuffle=False)
        engine, problem = alone(
            linear(), Tags.training_step, {"gradient_accumulation": gas}, loader=loader
        )
        engine.run()
        found.append(flat(problem.trainable_parameters()))
    assert found[0].isfinite().all()
    assert torch.allclose(*found, rtol=1e-12, atol=1e-14)


def test_a_level_says_itself_what_its_loss_averages_over():
    class Examples(LowerTags):
        def loss_terms(self, batch):
            return len(batch["x"])

    assert count_terms(collate(tagged(4, 0))) != 4
    problem = object.__new__(Examples)
    assert problem.loss_terms(collate(tagged(4, 0))) == 4


@pytest.mark.parametrize(
    ("batch", "terms"),
    [
        ({"labels": torch.tensor([[1, -100], [0, 2]])}, 3),
        ({"labels": torch.tensor([1, 0, 2])}, 3),
        ({"labels": torch.rand(3, 5)}, 3),
        ({"input_ids": torch.zeros(2, 7), "labels": torch.tensor([0.5, 1.5])}, 2),
        ((torch.zeros(5, 2), torch.zeros(5)), 5),
        ([{"a": torch.zeros(())}, {"b": torch.zeros(3)}], 3),
        (torch.tensor(1.0), 1),
        ({}, 1),
    ],
)
def test_terms_by_the_usual_conventions(batch, terms):
    assert count_terms(batch) == terms


def test_the_check_measures_on_whole_steps():
    """A check after 8 x 1 finds what one after 4 x 2 finds, exact value and direct partial."""
    found = []
    for batch_size, gas in ((8, 1), (4, 2)):
        engine, *_ = uneven_levels(Unrolled(), batch_size=batch_size, gas=gas)
        engine.run()
        (result,) = check(engine, [Sama()])
        found.append([result.exact_norm, result.direct_norm, result.norm, result.cosine])
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def test_indices_are_those_of_the_micro_batch_in_use():
    seen = []

    def step(problem, batch):
        seen.append((problem.last_indices, batch[1].tolist()))
        return classify(problem, batch)

    data = dataset(16, 0)
    loader = ResumableLoader(data, 4, stack)
    engine, _ = alone(linear(), step, {"gradient_accumulation": 4}, loader=loader)
    engine.run()
    assert len({tuple(indices) for indices, _ in seen}) == 4
    for indices, labels in seen:
        assert labels == [int(data[i][1]) for i in indices]


def test_the_loss_that_is_written_down_is_the_one_descended(tmp_path):
    """Means over the steps of sum_m (n_m / N) L_m, not of the L_m: one number for any split."""
    found = []
    for batch_size, gas in ((8, 1), (4, 2), (2, 4)):
        engine, *_ = uneven_levels(Unrolled(), batch_size=batch_size, gas=gas, steps=3)
        path = tmp_path / f"{gas}.jsonl"
        engine.callbacks.append(MetricsWriter(path, every=2))
        engine.run()
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        found.append([line[f"{level}_loss"] for line in lines for level in ("lower", "upper")])
    assert found[1] == pytest.approx(found[0], rel=1e-9)
    assert found[2] == pytest.approx(found[0], rel=1e-9)


def test_indices_of_a_step_taken_again_are_those_of_its_batches():
    engine, lower, _ = uneven_levels(
        FiniteDifference(), batch_size=2, gas=4, unroll_steps=1, steps=1, roll_back=True
    )
    seen = []
    own = lower.training_step

    def step(batch):
        seen.append((lower.last_indices, batch["labels"]))
        return own(batch)

    lower.training_step = step
    engine.run()
    again = [(indices, labels) for indices, labels in seen if indices is not None][-4:]
    data = tagged(48, 1)
    for indices, labels in again:
        assert torch.equal(labels, torch.stack([data[i]["labels"] for i in indices]))
    assert len({tuple(indices) for indices, _ in again}) == 4
