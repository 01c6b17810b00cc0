"""How many upper variables a method has, by what is known before any weights are read."""

from __future__ import annotations

import dataclasses

import pytest

from bilevel.hypergradient import FiniteDifference, Unrolled
from experiments.models.target_modules import outputs_of_maps, target_modules
from problems import (
    AutoLoRA,
    BiDoRA,
    BiLoRA,
    ExampleWeights,
    LearnedSettings,
    SaLoRABilevel,
    SourceWeights,
)
from problems.autolora_singular import AutoLoRASingular
from problems.common import Layout, TwoLevelMethod
from tests.problems.jobs import SmallJob, make_data

SOURCES = ["a", "b", "c"]
METHODS = {
    "autolora": AutoLoRA(rank=2),
    "bilora": BiLoRA(rank=2),
    "salora": SaLoRABilevel(rank=2, start=0.0, end=1.0),
    "singular": AutoLoRASingular(rank=2),
    "each module": LearnedSettings(rank=2, learn=("decay", "weight_decay", "temperature")),
    "by kind": LearnedSettings(rank=2, learn=("scale", "learning_rate"), granularity="kind"),
    "example_weights": ExampleWeights(rank=2),
    "source_weights": SourceWeights(rank=2),
    "bidora": BiDoRA(rank=2),
}
FROM_L2_ALONE = (LearnedSettings, ExampleWeights, SourceWeights)


@pytest.mark.parametrize("name", METHODS)
def test_the_count_is_that_of_the_training(name):
    method = METHODS[name]
    estimator = Unrolled() if isinstance(method, FROM_L2_ALONE) else FiniteDifference()
    job = SmallJob(estimator, epochs=8)
    count = len(job.data.examples)
    named = [SOURCES[i % 3] for i in range(count)]
    job.data = dataclasses.replace(job.data, validation=make_data(16, 1).examples, sources=named)
    upper = method.stages()[0].prepare(job, None).problems[1]
    found = sum(p.numel() for p in upper.trainable_parameters())
    assert upper.name == "upper"
    model = job.build_model()
    maps = outputs_of_maps(model, target_modules(model, job.target_modules))
    layout = Layout(maps, bool(job.head_modules), examples=count, sources=len(SOURCES))
    assert method.upper_variables(layout) == found


def test_what_a_method_does_not_say_is_none():
    assert Silent().upper_variables(Layout({"query": 4}, True, examples=8)) is None


class Silent(TwoLevelMethod):
    """One of a user's own."""

    def stages(self):
        """None."""
        return []
