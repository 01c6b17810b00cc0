"""A linear probe's stages on a small model: nothing held out, no weight, heads without a bias."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bilevel.errors import UserError
from problems import LinearProbe
from problems.linear_probe.fitting import fits
from problems.linear_probe.model import Embedder
from tests.problems.jobs import SmallJob, train


class ProbeJob(SmallJob):
    """With the model's outputs, in batches of eight, and accuracy alone for scores."""

    def __init__(self, bias: bool = True, **settings) -> None:
        super().__init__(**settings)
        self.bias = bias

    def build_model(self):
        model = super().build_model()
        if not self.bias:
            model.classifier = nn.Linear(16, 2, bias=False)
        return model

    @torch.no_grad()
    def outputs(self, model, rows):
        for first in range(0, len(rows), 8):
            batch = self.data.collate(list(rows[first : first + 8]))
            indices = list(range(first, first + len(batch["labels"])))
            yield indices, model.eval()(**batch), batch

    def scores(self, model, rows):
        right = [
            (out.logits.argmax(-1) == batch["labels"]).float().mean()
            for _, out, batch in self.outputs(model, rows)
        ]
        return {"loss": None, "accuracy": float(torch.stack(right).mean())}


def test_one_penalty_needs_nothing_held_out():
    job = ProbeJob()
    outcome = train(LinearProbe(hold_out=0.0, penalties=(0.1,)), job)
    embedder = Embedder(job.build_model(), "mean")
    x = torch.cat([out for _, out, _ in job.outputs(embedder, job.data.examples)]).numpy()
    (expected,) = fits("classes", x, np.array(job.data.labels), 2, [0.1])
    np.testing.assert_allclose(outcome.model.probe.weight.numpy(), expected.weight, rtol=1e-6)
    assert outcome.split == {"train": 48}
    assert outcome.validation_scores is None
    assert not outcome.validation_trained_on


@pytest.mark.parametrize("weights", ["weights", "draw_weights"])
def test_no_weight_at_all_is_told_before_the_model_is_loaded(weights, monkeypatch):
    job = ProbeJob()
    job.data = replace(job.data, **{weights: [0.0] * 48})
    monkeypatch.setattr(job, "build_model", lambda: pytest.fail("a model was loaded"))
    with pytest.raises(UserError, match="all weights of examples are 0"):
        train(LinearProbe(), job)


def test_weights_on_what_is_held_out_alone_are_none():
    job = ProbeJob()
    method = LinearProbe()
    _, held, _ = method._parts(job)
    job.data = replace(job.data, weights=[float(i in held) for i in range(48)])
    with pytest.raises(UserError, match="all weights of examples are 0"):
        train(method, job)


def labelled(**options):
    """With sets of two labels, the first of which all examples have."""
    job = ProbeJob(**options)
    for row in job.data.examples:
        row["labels"] = [1.0, float(row["labels"])]
    job.data = replace(job.data, labels=None)
    job.kind = "labels"
    job.scores = lambda model, rows: {"loss": None}
    return job


def told(job, caplog, **options):
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="problems.linear_probe.method"):
        train(LinearProbe(**options), job)
    return [record.getMessage() for record in caplog.records if "no bias" in record.getMessage()]


def test_a_label_that_a_head_without_a_bias_cannot_say(caplog):
    (said,) = told(labelled(bias=False), caplog, pooling="head")
    assert "1 of 2 labels (number 0" in said
    assert "method.pooling=mean" in said
    assert not told(labelled(bias=False), caplog, pooling="mean")
    assert not told(labelled(), caplog, pooling="head")
    assert not told(ProbeJob(bias=False), caplog, pooling="head")


def test_one_class_that_a_head_without_a_bias_cannot_say(caplog):
    job = ProbeJob(bias=False)
    for row in job.data.examples:
        row["labels"] = 1
    job.data = replace(job.data, labels=[1] * 48)
    (said,) = told(job, caplog, pooling="head")
    assert said.startswith("the answer:")
