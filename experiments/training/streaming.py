"""Refuse, before any data are read, what a stream of training examples cannot serve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bilevel.errors import UserError
from experiments.stored_data.streamed import StreamedExamples
from experiments.tasks.from_files import FromFiles
from problems.common.peft_options import PeftOptions

if TYPE_CHECKING:
    from experiments.config.plan import Plan
    from experiments.tasks.task import TaskData

__all__ = ["check_streamed", "check_streaming"]

SHARES = ("hold_out", "split")  # options of methods that part the training data
WITHIN = "task.streaming=true reads the training examples one after the other"


def check_streaming(plan: Plan) -> None:
    """Refuse methods and options that need the training examples in another order.

    Raises:
        UserError: the plan streams, and has one.
    """
    if not (isinstance(plan.task, FromFiles) and plan.task.streaming):
        return
    if not plan.method.streams:
        raise UserError(
            f"{WITHIN}, and method {plan.chosen} needs single ones: take method=lora, or "
            "task.streaming=false"
        )
    for name in SHARES:
        value = vars(plan.method).get(name)
        if value:
            allowed = "0" if name == "hold_out" else "null"
            raise UserError(
                f"{WITHIN}, and method.{name}={value:g} takes a share of them apart: set "
                f"method.{name}={allowed}, with files validation and test beside the training file"
            )
    peft = vars(plan.method).get("peft")
    if isinstance(peft, PeftOptions) and peft.init_lora_weights == "eva":
        raise UserError(
            f"{WITHIN}, and method.peft.init_lora_weights=eva holds many of them: take another "
            "start, or task.streaming=false"
        )
    if plan.probe:
        raise UserError(f"{WITHIN}, and run.probe=true embeds all of them: set run.probe=false")


def check_streamed(plan: Plan, task: TaskData) -> None:
    """Refuse a task that was asked to stream and has read all of its training data instead.

    Raises:
        UserError: it does not stream.
    """
    asked = isinstance(plan.task, FromFiles) and plan.task.streaming
    if asked and task.train and not isinstance(task.train, StreamedExamples):
        raise UserError(f"task {task.name} does not stream: set task.streaming=false")
