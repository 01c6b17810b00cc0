"""The horizon of methods whose gates have phases: they are those of the training, at any T1."""

from __future__ import annotations

import math

import pytest
import torch

from bilevel.hypergradient import Unrolled, find_horizon
from problems.autolora_singular import AutoLoRASingular
from problems.salora import SaLoRABilevel
from tests.problems.jobs import ExactJob, engine_of


def of_the_search(T1):
    method = AutoLoRASingular(rank=2, unroll_steps=T1, hold_out=0.2, split=0.6)
    job = ExactJob(Unrolled(), n=64, epochs=8, batch_size=4)
    training = method.search(job, None)
    return training, training.problems[0].rounds.first + 2


def of_the_window(T1):
    method = SaLoRABilevel(rank=2, unroll_steps=T1, start=0.2, end=0.8)
    job = ExactJob(Unrolled(), n=64, epochs=8, batch_size=4)
    training = method.stages()[0].prepare(job, None)
    return training, training.problems[0].gate_window.first + 2


@pytest.mark.parametrize("T1", [1, 4])
@pytest.mark.parametrize("trained", [of_the_search, of_the_window])
def test_it_is_found_where_the_gates_learn(trained, T1):
    """Steps of a check were counted in its own T1, so that with the default of 4 the gates were
    back in the warm-up."""
    torch.manual_seed(0)
    training, steps = trained(T1)
    engine = engine_of(training, steps)
    engine.run()
    lower = training.problems[0]
    before = lower.state_dict()
    found = find_horizon(engine, cosine=0.999999, most=4, batches=2)
    assert set(found.cosines) >= {1}
    assert all(math.isfinite(value) for value in found.cosines.values())
    after = lower.state_dict()
    assert after["count"] == before["count"] == steps * T1
    assert after["extra"] == before["extra"]
