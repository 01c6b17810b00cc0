"""Interrupting a method's training after any step, and going on in a fresh process' state."""

from __future__ import annotations

import functools

import torch

from bilevel.checkpoint.state_file import load_state, save_state
from tests.problems.jobs import SmallJob, engine_of, train


class _StoppedError(Exception):
    pass


class Interrupted(SmallJob):
    """A job whose training is saved to a file after ``stop`` steps, and ends there."""

    def __init__(self, path, stop, **options):
        super().__init__(**options)
        self.path, self.stop = path, stop

    def run(self, training):
        engine = engine_of(training, self.stop)
        engine.run()
        save_state(self.path, engine.state_dict())
        raise _StoppedError


class Resumed(SmallJob):
    """A job whose first stage goes on from the file."""

    def __init__(self, path, **options):
        super().__init__(**options)
        self.path = path

    def run(self, training):
        engine = engine_of(training)
        if len(self.stages) == 1:
            engine.load_state_dict(load_state(self.path))
        engine.run()
        return {}


@functools.cache
def undisturbed(method, **options):
    """What a training that nobody interrupts leaves; the same for every step to stop at."""
    return train(method, SmallJob(**options))


def assert_resumes_exactly(method, path, stop, **options):
    """The outcome of an interrupted training is that of an undisturbed one, bit for bit."""
    try:
        train(method, Interrupted(path, stop, **options))
    except _StoppedError:
        pass
    else:
        raise AssertionError("it was never interrupted")
    torch.manual_seed(99)
    resumed = train(method, Resumed(path, **options))
    whole = undisturbed(method, **options)
    assert resumed.ranks == whole.ranks
    ours, theirs = (dict(outcome.model.named_parameters()) for outcome in (resumed, whole))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name
