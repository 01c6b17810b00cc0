"""Engines over three levels, two lower problems, two upper problems."""

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
from tests.bilevel.toys import (
    Gate,
    Lower,
    Net,
    dataset,
    stack,
)


class Vector(nn.Module):
    def __init__(self, n, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn(n, dtype=torch.float64, generator=generator))


def vector_problem(cls, name, n, seed, lr=0.1, batches=(0.0,), **config):
    module = Vector(n, seed)
    return cls(
        name,
        ProblemConfig(**config),
        module=module,
        optimizer=torch.optim.SGD(module.parameters(), lr=lr),
        train_data_loader=[torch.tensor(b, dtype=torch.float64) for b in batches],
    )


class Bottom(LowerProblem):
    def training_step(self, batch):
        return ((self.module.w - self.top.module.w.sin()).pow(2).sum() / 2) + (
            self.module.w.cos() * self.middle.module.w
        ).sum()


class Middle(LowerProblem):
    def training_step(self, batch):
        return (self.module.w * self.bottom.module.w.exp()).sin().sum()


class Top(UpperProblem):
    def training_step(self, batch):
        return (self.module.w * self.middle.module.w).pow(2).sum()


def three_levels(hypergradient, top_steps=1, top_lr=0.0, middle_unroll=1, steps=1, **engine):
    given = {"hypergradient": hypergradient}
    bottom = vector_problem(Bottom, "bottom", 3, 0, unroll_steps=2, **given)
    middle = vector_problem(Middle, "middle", 3, 1, unroll_steps=middle_unroll, **given)
    top = vector_problem(Top, "top", 3, 2, lr=top_lr, steps=top_steps)
    engine = BilevelEngine(
        [bottom, middle, top],
        BilevelEngineConfig(train_iters=steps, **engine),
        {
            "u2l": {top: [bottom], middle: [bottom]},
            "l2u": {bottom: [middle], middle: [top]},
        },
    )
    return engine, bottom, middle, top


class Pair(UpperProblem):
    """Depends on two lower problems at once."""

    def training_step(self, batch):
        x, y = batch
        gate = self.module()
        return nn.functional.cross_entropy(self.lower(x, gate) + self.other(x, gate), y)


class Free(UpperProblem):
    """Its own part of the loss below, ``lower``'s, through a second gate."""

    def training_step(self, batch):
        x, y = batch
        return nn.functional.cross_entropy(self.lower(x, self.module()), y) * 2


class Both(Lower):
    def training_step(self, batch):
        x, y = batch
        return nn.functional.cross_entropy(self.module(x, self.upper() + self.second()), y)


def net_problem(cls, name, hypergradient, lr, seed, **config):
    torch.manual_seed(seed)
    module = Net(0.2)
    return cls(
        name,
        ProblemConfig(hypergradient=hypergradient, **config),
        module=module,
        optimizer=torch.optim.SGD([module.A, module.B], lr=lr),
        train_data_loader=ResumableLoader(dataset(64, 1), 8, stack, seed=seed),
    )


def gate_problem(cls, name, seed, lr=0.0, **config):
    torch.manual_seed(seed)
    module = Gate()
    return cls(
        name,
        ProblemConfig(**config),
        module=module,
        optimizer=torch.optim.SGD(module.parameters(), lr=lr),
        train_data_loader=ResumableLoader(dataset(64, 2), 8, stack, seed=seed),
    )


def two_lowers(hypergradient, steps=1, order=1, lr=0.3, **engine):
    lower = net_problem(Lower, "lower", hypergradient, lr, 0, unroll_steps=2)
    other = net_problem(Lower, "other", hypergradient, lr, 5, unroll_steps=1)
    upper = gate_problem(Pair, "upper", 1)
    torch.manual_seed(0)
    lowers = [lower, other][::order]
    engine = BilevelEngine(
        [*lowers, upper],
        BilevelEngineConfig(train_iters=steps, **engine),
        {"u2l": {upper: lowers}, "l2u": {p: [upper] for p in lowers}},
    )
    return engine, lower, upper


def two_uppers(hypergradient, measured="upper"):
    lower = net_problem(Both, "lower", hypergradient, 0.3, 0)
    upper = gate_problem(Free, "upper", 1, lr=0.7 * (measured != "upper"))
    second = gate_problem(Free, "second", 2, lr=0.7 * (measured != "second"))
    torch.manual_seed(0)
    engine = BilevelEngine(
        [lower, upper, second],
        BilevelEngineConfig(train_iters=1),
        {"u2l": {upper: [lower], second: [lower]}, "l2u": {lower: [upper, second]}},
    )
    return engine, lower, {"upper": upper, "second": second}[measured]
