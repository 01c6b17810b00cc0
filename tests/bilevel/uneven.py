"""Two levels whose losses are means over tags, of which every example has another number."""

from __future__ import annotations

import torch
from torch import nn

from bilevel import BilevelEngine, BilevelEngineConfig, LowerProblem, ProblemConfig, UpperProblem
from bilevel.data import ResumableLoader
from tests.bilevel.toys import Gate, Net

TAGS = 6


def tagged(n, seed):
    """Sequences of which the first k positions have a tag, k = 1 .. TAGS."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, TAGS, 4, dtype=torch.float64, generator=generator)
    tags = torch.randint(0, 3, (n, TAGS), generator=generator)
    known = torch.randint(1, TAGS + 1, (n, 1), generator=generator)
    tags[torch.arange(TAGS) >= known] = -100
    return [{"x": a, "labels": b} for a, b in zip(x, tags, strict=True)]


def collate(rows):
    return {key: torch.stack([row[key] for row in rows]) for key in ("x", "labels")}


def tag_loss(logits, labels):
    return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())


class LowerTags(LowerProblem):
    def training_step(self, batch):
        penalty = 0.1 * self.module.A.square().sum()  # in every micro-batch, and yet once a step
        return tag_loss(self.module(batch["x"], self.upper()), batch["labels"]) + penalty


class UpperTags(UpperProblem):
    def training_step(self, batch):
        return tag_loss(self.lower.module(batch["x"], self.module()), batch["labels"])


def uneven_levels(
    hypergradient,
    batch_size=8,
    gas=1,
    steps=2,
    unroll_steps=2,
    strategy="cpu",
    n=48,
    optimizer=lambda p: torch.optim.AdamW(p, lr=0.05),
    drop_last=True,
    roll_back=False,
    **upper,
):
    """An engine whose optimiser steps see the same examples for any batch_size * gas = 8."""
    torch.manual_seed(0)
    net, gate = Net(), Gate()
    split = {"gradient_accumulation": gas}

    def loader(seed):
        data = tagged(n, seed)
        return ResumableLoader(data, batch_size, collate, seed=seed, drop_last=drop_last)

    lower = LowerTags(
        "lower",
        ProblemConfig(
            hypergradient=hypergradient, unroll_steps=unroll_steps, gradient_clipping=0.5, **split
        ),
        module=net,
        optimizer=optimizer([net.A, net.B]),
        train_data_loader=loader(1),
    )
    upper = UpperTags(
        "upper",
        ProblemConfig(**split, **upper),
        module=gate,
        optimizer=torch.optim.SGD(gate.parameters(), lr=0.3),
        train_data_loader=loader(2),
    )
    engine = BilevelEngine(
        [lower, upper],
        BilevelEngineConfig(train_iters=steps, strategy=strategy, roll_back=roll_back),
        {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}},
    )
    return engine, lower, upper
