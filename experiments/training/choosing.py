"""Choose weights, and stop trainings, by a score on validation data, never on the test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from bilevel.errors import UserError, listed, nearest
from experiments.answers import TEXT

if TYPE_CHECKING:
    from experiments.config.schema import EngineOptions
    from experiments.tasks.task import TaskData
    from problems.common.method import Method

__all__ = ["LOSS", "check", "is_better"]

LOSS = "loss"

NOTHING = (
    "there is no validation data: give the task a validation file beside its test file "
    "(from Python data['validation'] beside data['test'])"
)


def check(options: EngineOptions, method: Method, task: TaskData) -> None:
    """Refuse to choose by what there is not, before a model is loaded.

    Raises:
        UserError: the metric is none of the task's; there is no validation data to stop by, or
            none that all levels leave alone to find the best weights by.
    """
    if options.choose_by not in (LOSS, *task.metrics):
        known = [LOSS, *task.metrics]
        raise UserError(
            f"engine.choose_by={options.choose_by}: allowed are {listed(known)}"
            f"{nearest(options.choose_by, known)}"
        )
    found = method.held_out(own=task.validation is not None)
    out = f"{NOTHING}{_by_method(method)}"
    if options.early_stopping and found == "nothing":
        raise UserError(
            f"engine.early_stopping={options.early_stopping} has nothing to watch, as {out}"
        )
    if options.keep == "best" and found == "nothing":
        raise UserError(f"engine.keep=best has nothing to choose by, as {out}")
    if options.keep == "best" and found == "trained_on":
        raise UserError(
            "engine.keep=best has nothing to choose by, as method "
            f"{method.name} trains on its D_val: give the task a validation file beside its test "
            "file, and let D_val be a share of the training data (method.split)"
        )


def is_better(task: TaskData, choose_by: str) -> Literal["min", "max"]:
    """Whether the smaller or the larger score is the better one."""
    if choose_by == LOSS:
        return "min"
    if task.answers.kind == TEXT:
        from experiments.metrics.text import TEXT_METRICS

        return "max" if TEXT_METRICS[choose_by].higher_is_better else "min"
    return "max"


def _by_method(method: Method) -> str:
    """What else the method offers."""
    return ", or keep a part of the training data by method.hold_out" * hasattr(method, "hold_out")
