"""The toy problems on stock Betty."""

import warnings

import torch
from betty.configs import Config, EngineConfig
from betty.engine import Engine
from betty.problems import ImplicitProblem

from tests.bilevel.toys import (
    Gate,
    Lower,
    Net,
    Upper,
    dataset,
    stack,
)


class StockLower(ImplicitProblem):
    training_step = Lower.training_step


class StockUpper(ImplicitProblem):
    training_step = Upper.training_step


def stock_levels(
    optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
    upper_optimizer=lambda p: torch.optim.SGD(p, lr=0.0),
    steps=1,
    dropout=0.0,
    module=None,
    classes=(StockLower, StockUpper),
    engine_options=None,
    unroll_steps=1,
    dtype=torch.float64,
    precision="fp32",
    engine_class=Engine,
    scheduler=None,
    frozen=False,
):
    """The same two levels as ``two_levels``, of Betty's own classes.

    Stock Betty cannot take a step with a frozen parameter, so it becomes a buffer unless wanted.
    """
    torch.manual_seed(0)
    net, gate = (Net(dropout) if module is None else module).to(dtype), Gate().to(dtype)
    if not frozen:
        net.register_buffer("frozen", net._parameters.pop("frozen").detach())

    def batches(seed):
        x, y = stack(dataset(64, seed))
        return [(x[i : i + 8].to(dtype), y[i : i + 8]) for i in range(0, 64, 8)]

    optim = optimizer([p for p in net.parameters() if p.requires_grad])
    lower = classes[0](
        "lower",
        Config(unroll_steps=unroll_steps, precision=precision),
        module=net,
        optimizer=optim,
        scheduler=None if scheduler is None else scheduler(optim),
        train_data_loader=batches(1),
    )
    upper = classes[1](
        "upper",
        Config(precision=precision, retain_graph=True),  # it goes through its graph twice
        module=gate,
        optimizer=upper_optimizer(gate.parameters()),
        train_data_loader=batches(2),
    )
    engine = engine_class(
        [lower, upper],
        EngineConfig(
            **{
                "train_iters": steps,
                "valid_step": 10**6,
                "strategy": "cpu",
                **(engine_options or {}),
            }
        ),
        {"u2l": {upper: [lower]}, "l2u": {lower: [upper]}},
    )
    return engine, lower, upper


def run_quietly(engine):
    """Run stock Betty where it makes torch warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine.run()
