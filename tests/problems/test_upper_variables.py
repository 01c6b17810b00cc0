"""How many upper variables a method has, as far as the model's layout says."""

from __future__ import annotations

import pytest

from bilevel.hypergradient import FiniteDifference, Unrolled
from problems import AutoLoRA, BiDoRA, BiLoRA, LearnedSettings, SaLoRABilevel
from problems.autolora_singular import AutoLoRASingular
from tests.problems.jobs import SmallJob

MODULES = [
    f"bert.encoder.layer.{layer}.attention.self.{kind}"
    for layer in range(SmallJob.layers)
    for kind in ("query", "value")
]
METHODS = {
    "autolora": AutoLoRA(rank=2),
    "bilora": BiLoRA(rank=2),
    "salora": SaLoRABilevel(rank=2, start=0.0, end=1.0),
    "singular": AutoLoRASingular(rank=2),
    "each module": LearnedSettings(rank=2, learn=("decay", "weight_decay", "temperature")),
    "by kind": LearnedSettings(rank=2, learn=("scale", "learning_rate"), granularity="kind"),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_count_is_that_of_the_training(name):
    method = METHODS[name]
    estimator = Unrolled() if isinstance(method, LearnedSettings) else FiniteDifference()
    job = SmallJob(estimator, epochs=8)
    upper = method.stages()[0].prepare(job, None).problems[1]
    found = sum(p.numel() for p in upper.trainable_parameters())
    assert upper.name == "upper"
    assert method.upper_variables(MODULES, bool(job.head_modules)) == found


def test_what_the_layout_does_not_say_is_none():
    assert BiDoRA().upper_variables(MODULES, True) is None
