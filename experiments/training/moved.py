"""Refuse to go on with a run from what lies elsewhere by now, unless it is the same."""

from __future__ import annotations

from pathlib import Path

from experiments.cli.held_log import HeldLog
from experiments.config.plan import Plan
from experiments.training import checksums
from experiments.training.fine_tuning_job import load_task
from experiments.training.same_data import (
    check_data,
    data_digests,
    file_digests,
    model_digests,
)

__all__ = ["check_moved"]


def check_moved(plan: Plan, folder: Path) -> None:
    """Hold what the places name now against what an interrupted run began with.

    Args:
        plan: of the run as it is asked for now.
        folder: the run's, into which nothing has been written yet.

    Raises:
        UserError: it is something else, or cannot be had.
    """
    with HeldLog().holding():  # the run says it again
        task = load_task(plan)
        given = {**data_digests(task), **file_digests(plan, task), **model_digests(plan)}
    check_data(folder, checksums.known(folder), given)
