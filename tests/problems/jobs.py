"""A Job without the application: a tiny BERT, random token sequences with a learnable rule."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, BertConfig

from bilevel import BilevelEngine, BilevelEngineConfig
from bilevel.cutting import Losses
from bilevel.hypergradient import FiniteDifference
from experiments.training.stage_tensors import part, put_back
from problems import TrainData, Training, TrainSettings


def collate(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    width = max(len(e["input_ids"]) for e in examples)
    pad = lambda ids, fill: ids + [fill] * (width - len(ids))  # noqa: E731
    return {
        "input_ids": torch.tensor([pad(e["input_ids"], 0) for e in examples]),
        "attention_mask": torch.tensor([pad([1] * len(e["input_ids"]), 0) for e in examples]),
        "labels": torch.tensor([e["labels"] for e in examples]),
    }


def make_data(n: int = 48, seed: int = 0) -> TrainData:
    generator = random.Random(seed)
    examples = []
    for _ in range(n):
        ids = [generator.randrange(2, 30) for _ in range(generator.randrange(4, 9))]
        examples.append({"input_ids": ids, "labels": int(ids[0] > 15)})
    return TrainData(
        examples=examples,
        collate=collate,
        labels=[e["labels"] for e in examples],
        lengths=[len(e["input_ids"]) for e in examples],
    )


class SmallJob:
    """The whole Job protocol in memory; :func:`train` has it run what a stage prepares."""

    layers = 2
    kind = "classes"

    def __init__(self, hypergradient=None, seed: int = 0, n: int = 48, **settings: Any) -> None:
        self.seed = seed
        self.data = make_data(n)
        self.settings = TrainSettings(
            **{"epochs": 1, "batch_size": 8, "precision": "fp32", "lr": 1e-2, **settings}
        )
        self.hypergradient = hypergradient or FiniteDifference()
        self.target_modules = ["query", "value"]
        self.head_modules = ["classifier"]
        self.task_type = "SEQ_CLS"
        self.stages: list[str] = []
        self.runs: list[dict[str, Any]] = []

    device = torch.device("cpu")

    def losses(self, model, rows):
        """Cross-entropies, one example at a time."""
        model.eval()
        found = []
        with torch.no_grad():
            for row in rows:
                batch = collate([row])
                logits = model(**{k: v for k, v in batch.items() if k != "labels"}).logits.double()
                found.append(-logits.log_softmax(-1)[0, row["labels"]].item())
        return Losses(np.array(found), np.ones(len(found), dtype=int))

    def example_losses(self, outputs, batch):
        """Of classes; differentiable."""
        losses = torch.nn.functional.cross_entropy(
            outputs.logits, batch["labels"], reduction="none"
        )
        return losses, torch.ones_like(batch["labels"])

    def build_model(self):
        torch.manual_seed(self.seed)
        config = BertConfig(
            vocab_size=32,
            hidden_size=16,
            num_hidden_layers=self.layers,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=16,
        )
        return AutoModelForSequenceClassification.from_config(config)

    def run(self, training):
        """Train, and say what the application's evaluation at the end would."""
        model = training.model
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.runs.append(
            {
                "problems": training.problems,
                "steps": training.steps,
                "model": model,
                "validation": list(training.validation),
                "gates": training.gates,
                "watch": training.watch,
                "before": before,
            }
        )
        engine_of(training).run()
        return {"validation_loss": 0.5} if training.validation else {}


def engine_of(training, steps=None):
    """The engine for a stage's training, of ``steps`` global steps or its own number of them."""
    config = BilevelEngineConfig(
        train_iters=training.steps if steps is None else steps,
        strategy="cpu",
        roll_back=training.roll_back,
    )
    return BilevelEngine(training.problems, config, training.dependencies)


def train(method, job):
    """Run a method's stages as the application does; JSON and tensors pass between them."""
    found = None
    stages = method.stages()
    for stage in stages:
        job.stages.append(stage.name)
        torch.manual_seed(job.seed)
        made = stage.prepare(job, found)
        found = made.finish(job.run(made)) if isinstance(made, Training) else made
        if stage is not stages[-1]:
            plain, tensors = part(found)
            found = put_back(json.loads(json.dumps(plain)), tensors)
    return found


class ExactJob(SmallJob):
    """In float64, without dropout, and with weights large enough that adapters matter."""

    def build_model(self):
        model = super().build_model().double()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            if isinstance(module, nn.Linear):
                module.weight.data *= 5
        return model


def logits_of(model, job):
    """What the model says to the job's first sixteen examples, without dropout."""
    training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(**job.data.collate(list(job.data.examples[:16]))).logits
    model.train(training)
    return logits
