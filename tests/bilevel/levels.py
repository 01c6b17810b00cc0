"""One level by itself."""

import torch
from torch import nn

from bilevel import (
    BilevelEngine,
    BilevelEngineConfig,
    LowerProblem,
    ProblemConfig,
    ResumableLoader,
)
from tests.bilevel.toys import (
    dataset,
    stack,
)


def alone(module, step, options=None, loader=None, optimizer=None, steps=1):
    """A one-problem engine with ``step(problem, batch)`` as the loss."""

    class Alone(LowerProblem):
        def training_step(self, batch):
            return step(self, batch)

    problem = Alone(
        "alone",
        ProblemConfig(**(options or {})),
        module=module,
        optimizer=optimizer or torch.optim.SGD(module.parameters(), lr=0.1),
        train_data_loader=loader
        if loader is not None
        else ResumableLoader(dataset(32, 0), 4, stack),
    )
    return BilevelEngine([problem], BilevelEngineConfig(train_iters=steps)), problem


def classify(problem, batch):
    x, y = batch
    return nn.functional.cross_entropy(problem.module(x), y)


def linear(bias=True):
    torch.manual_seed(0)
    return nn.Linear(4, 3, bias=bias, dtype=torch.float64)
