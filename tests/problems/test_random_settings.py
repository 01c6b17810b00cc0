"""Random settings: what is drawn, which trial wins, when the budget ends, and that trials stop."""

from __future__ import annotations

import pytest

from bilevel import UserError
from problems.common import Training
from problems.common.records import LOWEST
from problems.learned_settings import RandomSettings
from problems.learned_settings.random_search import RANGES
from problems.lora_settings import ModuleSettings
from tests.problems.jobs import SmallJob, train

MODULES = [
    f"bert.encoder.layer.{i}.attention.self.{kind}" for i in (0, 1) for kind in ("query", "value")
]
EVERY = tuple(RANGES)


class Job(SmallJob):
    """Says of each trial's validation loss what it is told to."""

    def __init__(self, losses=(), **options):
        super().__init__(**options)
        self.target_modules = MODULES
        self.losses = list(losses)
        self.trainings = []

    def run(self, training):
        self.trainings.append(training)
        super().run(training)
        if not training.validation:
            return {"kept_step": training.steps}
        return {"validation_loss": self.losses.pop(0), "kept_step": 2}


def test_draws_are_in_their_ranges_decided_by_the_seed_and_one_for_all():
    method = RandomSettings(draw=EVERY)
    assert method.drawn(0, Job()) == ModuleSettings()
    drawn = [method.drawn(i, Job()) for i in range(1, 200)]
    assert drawn[:3] == [method.drawn(i, Job()) for i in (1, 2, 3)]
    assert drawn[0] != method.drawn(1, Job(seed=1))
    for name, (low, high, _) in RANGES.items():
        values = [getattr(settings, name) for settings in drawn]
        if isinstance(values[0], dict):
            assert all({*MODULES} <= {*value} for value in values)
            assert all(len({value[m] for m in MODULES}) == 1 for value in values)
            values = [value[MODULES[0]] for value in values]
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high >= max(values) > low + 0.8 * (high - low), name
    by_module = RandomSettings(draw=("decay",), granularity="module").drawn(1, Job())
    assert len(set(by_module.decay.values())) == len(MODULES)


def test_the_best_trial_is_trained_on_all_of_the_data():
    job = Job([0.6, 0.4, 0.5], epochs=3)
    method = RandomSettings(rank=2, trials=3, draw=("decay", "learning_rate"), split=0.75)
    outcome = train(method, job)
    assert job.stages == ["trial0", "trial1", "trial2", "train"]
    assert outcome.validation_loss == 0.4
    assert outcome.validation_trained_on
    best = method.drawn(1, job)
    assert outcome.lora["settings"]["decay"] == best.decay
    *trials, last = job.trainings
    assert [training.patience for training in trials] == [3, 3, 3]
    assert all(len(training.validation) == 12 for training in trials)
    assert last.patience is None
    assert not last.validation
    (problem,) = last.problems
    assert problem.values == best
    assert len(problem.train_data_loader[0].indices) == 48
    # The best took 2 of 4 or 5 steps a pass, so half a pass over all, of 6 steps.
    assert last.steps in (3, 2)


def test_the_best_is_by_what_weights_are_chosen_by():
    """The first has the lower loss, the second the better score."""
    method, job = RandomSettings(rank=2, trials=2), Job([0.4, 0.6])
    found = None
    for number, accuracy in enumerate((0.7, 0.9)):
        training = method.trial(number, job, found)
        found = training.finish({**job.run(training), LOWEST: -accuracy})
    assert found["stage"] == "trial1"
    older = {k: v for k, v in found.items() if k != LOWEST}  # of a run that went by the loss
    job.losses = [0.5]
    training = method.trial(1, job, older)
    assert training.finish(job.run(training))["validation_loss"] == 0.5


def test_a_trial_that_diverges_is_lost():
    """The loss of the first is no number, the last one's engine stops at one that is none."""
    method = RandomSettings(rank=2, trials=3)
    job = Job([float("nan"), 0.5])
    found = None
    for number in (0, 1):
        training = method.trial(number, job, found)
        found = training.finish(job.run(training))
        assert found["tried"] == number + 1
        assert bool(found["settings"]) == bool(number)
    last = method.trial(2, job, found).diverged()
    assert {**last, "spent": 0.0} == {**found, "spent": 0.0, "tried": 3}
    outcome = method.train(job, last).finish({"kept_step": 1})
    assert (outcome.validation_loss, outcome.validation_stage) == (0.5, "trial1")
    nothing = method.trial(0, job, None).diverged()
    with pytest.raises(UserError, match=r"all 1 trials.*train\.lr"):
        method.train(job, nothing)


def test_no_trial_begins_after_the_budget():
    job = Job([0.6, 0.4, 0.5])
    method = RandomSettings(rank=2, trials=3, processor_seconds=1e-6)
    found = method.trial(0, job, None)
    assert isinstance(found, Training)
    first = found.finish(job.run(found))
    assert (first["tried"], first["spent"] > 1e-6) == (1, True)
    assert method.trial(1, job, first) is first
    assert train(method, Job([0.7])).validation_loss == 0.7


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"draw": ("decay", "decay")}, "draw"),
        ({"draw": ("dropout",), "lora_dropout": 0.1}, "lora_dropout"),
        ({"processor_seconds": 0.0}, "processor_seconds"),
        ({"patience": 0}, "patience"),
    ],
)
def test_wrong_options(options, word):
    with pytest.raises(UserError, match=word):
        RandomSettings(**options)
