"""Load a task's data; of a column that a file lacks, the option that names it is told too."""

from __future__ import annotations

from bilevel.errors import UserError
from experiments.tasks.reading.row import MissingColumnError
from experiments.tasks.task import Task, TaskData

__all__ = ["load_data"]


def load_data(task: Task) -> TaskData:
    """What ``task.load()`` returns.

    Raises:
        UserError: as of it.
    """
    try:
        return task.load()
    except MissingColumnError as error:
        for option, value in vars(task).items():
            names = value if isinstance(value, tuple) else (value,)
            if "column" in option and error.column in names:
                others = ",".join("NAME" if name == error.column else name for name in names)
                said = f"task.{option}={f'[{others}]' if isinstance(value, tuple) else others}"
                raise UserError(f"{error}; {said} says another") from error
        raise
