"""Betty's own configurations and problems, given to classes of ours."""

import pytest
import torch
from betty.configs import Config, EngineConfig

from bilevel import BilevelEngine, BilevelEngineConfig, LowerProblem, ProblemConfig, ResumableLoader
from bilevel.errors import UserError
from tests.bilevel.levels import classify, linear
from tests.bilevel.stock import stock_levels
from tests.bilevel.toys import dataset, stack


class Alone(LowerProblem):
    training_step = classify


def test_bettys_configurations_become_ours():
    taken = ProblemConfig.of(Config(type="cg", unroll_steps=3, cg_iterations=7))
    assert (taken.type, taken.unroll_steps, taken.cg_iterations) == ("cg", 3, 7)
    assert (taken.steps, taken.maximize) == (1, False)
    assert ProblemConfig.of(taken) is taken
    engine = BilevelEngineConfig.of(EngineConfig(train_iters=7))
    assert (engine.train_iters, engine.verbose) == (7, False)
    assert BilevelEngineConfig.of(engine) is engine


def test_a_level_and_the_engine_take_bettys_configurations():
    module = linear()
    problem = Alone(
        "alone",
        Config(gradient_accumulation=2),
        module=module,
        optimizer=torch.optim.SGD(module.parameters(), lr=0.1),
        train_data_loader=ResumableLoader(dataset(32, 0), 4, stack),
    )
    engine = BilevelEngine([problem], EngineConfig(train_iters=2, strategy="cpu"))
    engine.run()
    assert engine.global_step == 2
    assert problem.count == 4


def test_the_engine_refuses_bettys_problems():
    _, lower, upper = stock_levels()
    with pytest.raises(UserError, match=r"'lower' is a StockLower.*LowerProblem"):
        BilevelEngine([lower, upper])
