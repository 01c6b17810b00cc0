"""The model as it was trained is no longer there while what was saved is read back and scored."""

import weakref

import pytest
import torch

from bilevel import Callback
from experiments.api import finetune
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.training import final_scores
from problems import AutoLoRA, FullFineTuning, LoRA


class Watching(Callback):
    """Remembers, without holding them, the models that are trained and their optimisers."""

    def __init__(self):
        self.seen = []

    def on_start(self, engine):
        self.seen += [weakref.ref(thing) for p in engine.problems for thing in (p, p.optimizer)]
        self.seen += [weakref.ref(p.module) for p in engine.problems]


METHODS = [LoRA(rank=2), AutoLoRA(rank=2), FullFineTuning()]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_what_was_trained_is_gone_before_the_scores(method, monkeypatch):
    plan = Plan.of(compose_config(["task=demo", "task.max_train=40", "task.max_test=8"]))
    task = plan.task.load()
    model = plan.model.load(task.answers, 0)
    rows = {
        name: task.tokenise(model.tokenizer, part)
        for name, part in (("train", task.train), ("test", task.tests["test"]))
    }
    watching, alive = Watching(), []
    read = final_scores.load

    def load(*given):
        alive.extend(ref() for ref in watching.seen if ref() is not None)
        return read(*given)

    monkeypatch.setattr(final_scores, "load", load)
    run = finetune(
        *(model.model, model.tokenizer, rows, method),
        callbacks=[watching],
        max_steps=2,
        batch_size=8,
    )
    assert watching.seen
    assert not alive
    assert torch.isfinite(next(run.model.parameters())).all()
