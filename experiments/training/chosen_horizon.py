"""Choose T1 before a run's training: method.horizon, and what it is for."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import replace
from typing import Any

from bilevel.errors import UserError
from bilevel.hypergradient import Forward, Hypergradient, Unrolled
from experiments.config.plan import Plan
from experiments.tasks.task import TaskData
from experiments.training.fine_tuning_job import FineTuningJob
from experiments.training.finished_stages import Journal
from experiments.training.first_stage import ready, trained
from experiments.training.stage import summary_without_training
from problems.common.two_levels import TwoLevelMethod

__all__ = ["STAGE", "settled"]

log = logging.getLogger(__name__)

STAGE = "horizon"  # in logs, stages.json and result.json
STEPS = 40  # global steps before it is measured
MOST = 32  # the largest T1 that is tried
BATCHES = 2  # of the upper level, averaged over


def settled(plan: Plan, task: TaskData, journal: Journal) -> Plan:
    """The plan with the T1 that ``method.horizon`` asks for; the same plan where it asks nothing.

    The first stage is trained for 40 global steps of a copy of the run, and T1 doubled there until
    :func:`bilevel.hypergradient.find_horizon` is content. A resumed run keeps what was found.

    Raises:
        UserError: the stage is too short to measure in, or its steps cannot be differentiated.
    """
    method = plan.method
    if not isinstance(method, TwoLevelMethod) or method.horizon is None:
        return plan
    if STAGE not in journal.finished:
        started = time.perf_counter(), time.process_time()
        found = _measured(plan, task, method.horizon)
        journal.finish(STAGE, found, summary_without_training(plan.settings.precision, *started))
    found = journal.found(STAGE)
    log.info("%s", found["words"])
    return replace(plan, method=replace(method, unroll_steps=found["unroll_steps"]))


def _measured(plan: Plan, task: TaskData, cosine: float) -> dict[str, Any]:
    """What was found: plain JSON data."""
    from bilevel.hypergradient import find_horizon

    training = ready(plan, FineTuningJob.load(plan, task))
    (lower, *_) = next(iter(training.dependencies["u2l"].values()))
    steps_each = lower.config.unroll_steps
    first, end = training.upper_window or (0, training.steps)
    warm = max(first, math.ceil(lower.config.warmup_steps / steps_each))
    start = warm + min(STEPS, max(1, (end - warm) // 4))
    # No further than the schedule of the learning rates goes: each batch takes 2 T1 steps.
    most = min(MOST, (end - start) * steps_each // (2 * BATCHES))
    if most < 1:
        there = f"the stage has {training.steps} global steps"
        if training.upper_window is not None:
            there = f"the upper level steps in {end - first} of {training.steps} global steps"
        raise UserError(
            f"method.horizon={cosine:g}: {there}, too few to measure a horizon in; raise "
            "train.epochs, or give method.unroll_steps=N"
        )
    horizon = find_horizon(trained(plan, training, start), cosine, most, BATCHES)
    chosen = horizon.unroll_steps
    words = f"horizon, after {start} global steps: {horizon}"
    if all(math.isnan(value) for value in horizon.cosines.values()):
        chosen = steps_each
        words += f"; there is no gradient there, so T1 stays {chosen}"
    elif chosen is None:
        chosen = max(horizon.cosines)
        words += f"; T1 is the largest that was tried, {chosen}"
    if not _through_all(plan.hypergradient):
        words += (
            "; that is of the gradient through all T1 steps, as hypergradient=unrolled and forward "
            f"take it, and {plan.hypergradient.name} does not"
        )
    cosines = {str(t): None if math.isnan(c) else c for t, c in horizon.cosines.items()}
    return {"unroll_steps": chosen, "wanted": cosine, "cosines": cosines, "words": words}


def _through_all(estimator: Hypergradient) -> bool:
    """Whether it differentiates every one of the T1 steps."""
    if isinstance(estimator, Unrolled):
        return estimator.depth is None
    return isinstance(estimator, Forward)
