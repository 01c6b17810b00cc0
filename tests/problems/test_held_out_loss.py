"""What an upper level scores: the model as it will be used, where the method is our own."""

import dataclasses

import pytest
import torch

from bilevel.evaluation import evaluating
from bilevel.hypergradient import FiniteDifference
from problems import SourceWeights
from problems.example_weights import ExampleWeights
from tests.problems.jobs import SmallJob, collate, engine_of, make_data


@pytest.mark.parametrize("kind", [SourceWeights, ExampleWeights])
def test_dropout_stays_out_of_it(kind):
    """A small D_val would have another loss at each step; the lower level keeps its dropout."""
    job = SmallJob(FiniteDifference())
    job.data = dataclasses.replace(
        job.data,
        sources=[("a", "b")[i % 2] for i in range(len(job.data.examples))],
        validation=make_data(16, seed=5).examples,
    )
    method = kind(lora_dropout=0.3)
    training = method.stages()[0].prepare(job, None)
    engine_of(training, 1)
    lower, upper = training.problems
    batch = collate(job.data.validation)
    with evaluating(lower.module), torch.no_grad():
        plain = lower.module(**batch).loss
    lower.module.train()
    for _ in range(2):
        torch.testing.assert_close(upper.loss(batch).detach(), plain, rtol=1e-6, atol=0)
    dropouts = [part for part in lower.module.modules() if isinstance(part, torch.nn.Dropout)]
    assert dropouts
    assert all(part.training for part in dropouts)
