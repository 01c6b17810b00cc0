"""Match the labels of data with those that a run was trained for, by their names."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from bilevel.errors import UserError
from experiments.answers import CHOICES
from experiments.tasks.reading.labels import BOOLEANS
from experiments.tasks.task import TaskData

if TYPE_CHECKING:
    from experiments.tasks.kinds.choices import ChoiceData

__all__ = ["matched"]


def matched(task: TaskData, result: dict[str, Any], run: str) -> TaskData:
    """The data with its labels numbered as the run's model puts them out.

    Choices are places, whatever the data call them: of these only their number is compared.

    Args:
        task: the data, whose classes have numbers of their own.
        result: of the run: ``kind``, and ``labels`` in the order of the model's outputs.
        run: its folder, for messages.

    Raises:
        UserError: the run's model puts out something else, or has no such label.
    """
    kind = result.get("kind", task.answers.kind)  # the oldest results do not say
    if kind != task.answers.kind:
        raise UserError(
            f"run={run} was trained to put out {kind}, and task {task.name} asks for "
            f"{task.answers.kind}"
        )
    threshold = result.get("threshold")
    if threshold is not None:  # which the run has chosen on its validation data
        task = task.at_threshold(threshold)
    names = result.get("labels")
    if names == ["0", "1"] and task.answers.names == BOOLEANS:
        return task  # as results called true and false at first, in the same order
    if names is None or task.answers.names is None or task.answers.names == tuple(names):
        return task
    if kind == CHOICES:
        if len(names) != len(task.answers.names):
            raise UserError(
                f"task {task.name} offers {len(task.answers.names)} choices a question, and "
                f"run={run} was trained on {len(names)}"
            )
        return replace(cast("ChoiceData", task), label_names=list(names))
    strange = sorted(task.tested_labels() - set(names))
    if strange:
        raise UserError(
            f"task {task.name} is tested on the labels {', '.join(strange)}, which run={run} was "
            f"not trained for: its labels are {', '.join(names)} (result.json), and those of the "
            f"data {', '.join(task.answers.names)}; labels are matched by their names"
        )
    return task.renumbered(tuple(names))
