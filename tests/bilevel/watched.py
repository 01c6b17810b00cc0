"""Small engines to watch with callbacks."""

import json

import torch
from torch import nn

from bilevel import (
    BilevelEngine,
    BilevelEngineConfig,
    LowerProblem,
    ProblemConfig,
    ResumableLoader,
    UpperProblem,
)
from bilevel.callbacks import (
    Callback,
)
from bilevel.hypergradient import NoHypergradient


class Lower(LowerProblem):
    def training_step(self, batch):
        return ((self.module(batch) - 1) ** 2).mean() * self.upper.module.weight.exp().mean()


class Upper(UpperProblem):
    def training_step(self, batch):
        return (self.inner.module(batch) ** 2).mean() + self.module.weight.pow(2).mean()


def build(steps=6, callbacks=(), t1=1, valid_step=0, data=None, **config):
    torch.manual_seed(0)
    if data is None:
        data = list(torch.randn(16, 3, generator=torch.Generator().manual_seed(1)))
    module, gate = nn.Linear(3, 1), nn.Linear(2, 1)
    lower_optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    lower = Lower(
        "inner",
        ProblemConfig(hypergradient=NoHypergradient(), unroll_steps=t1),
        module=module,
        optimizer=lower_optimizer,
        scheduler=torch.optim.lr_scheduler.ExponentialLR(lower_optimizer, 0.5),
        train_data_loader=ResumableLoader(data, 4, torch.stack, seed=3),
    )
    upper = Upper(
        "upper",
        ProblemConfig(),
        module=gate,
        optimizer=torch.optim.SGD(gate.parameters(), lr=0.25),
        train_data_loader=ResumableLoader(data, 4, torch.stack, seed=4),
    )
    return BilevelEngine(
        [lower, upper],
        BilevelEngineConfig(train_iters=steps, valid_step=valid_step, strategy="cpu", **config),
        {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}},
        callbacks=list(callbacks),
        validation=lambda engine: {"loss": float(module.weight.detach().norm())},
    )


class Crash(Callback):
    """Raises after a step, like a kill that leaves what was on the disk."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, engine):
        if engine.global_step == self.step:
            raise KeyboardInterrupt


def lines_of(path, seconds=False):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    if not seconds:
        for line in lines:
            assert line.pop("seconds") >= 0
    return lines
