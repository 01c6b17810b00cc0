"""Train the first two-level stage of a method a little, to measure hypergradients there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bilevel.errors import UserError
from experiments.config.plan import Plan
from problems.common.method import Job, Training

if TYPE_CHECKING:
    from bilevel import BilevelEngine

__all__ = ["ready", "trained"]


def ready(plan: Plan, job: Job) -> Training:
    """The first stage of a plan's method, ready to train, from the plan's seed.

    Raises:
        UserError: the method has one level, or the data do not suit it.
    """
    from transformers import set_seed  # here: what is wrong with the words is told without it

    set_seed(plan.seed)
    training = plan.method.stages()[0].prepare(job, None)
    if not isinstance(training, Training) or not training.dependencies["u2l"]:
        raise UserError(
            "this method has one level only, there is no hypergradient to check; take "
            "method=autolora"
        )
    return training


def trained(plan: Plan, training: Training, steps: int) -> BilevelEngine:
    """The engine of a stage after so many of its global steps, with its schedule."""
    from bilevel import BilevelEngine, BilevelEngineConfig

    engine = BilevelEngine(
        training.problems,
        config=BilevelEngineConfig(
            train_iters=steps, strategy=plan.engine.strategy, roll_back=training.roll_back
        ),
        dependencies=training.dependencies,
    )
    engine.run()
    return engine
