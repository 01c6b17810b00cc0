"""Keep the weights that a run has learned of its training examples: example_weights.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bilevel.errors import UserError
from bilevel.reading import json_object
from experiments.cli.writing import write_atomically
from experiments.training.watched import digest

__all__ = ["FILE", "read", "write"]

FILE = "example_weights.json"


def write(weights: Sequence[float], rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write them into a run's folder.

    Args:
        weights: in (0, 1), of each of the rows.
        rows: tokenised training examples, whose checksum tells later which they were.
        folder: the run's.
    """
    values = {"digest": digest(rows), "weights": [round(weight, 8) for weight in weights]}
    write_atomically(folder / FILE, json.dumps(values) + "\n")


def read(rows: Sequence[dict[str, Any]], folder: Path) -> list[float] | None:
    """The weights of these rows; None of a run that learned none.

    Raises:
        UserError: the file is damaged, or of other rows.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    values = json_object(path, needs=("digest", "weights"))
    weights = values["weights"]
    if not isinstance(weights, list) or not all(
        isinstance(weight, int | float) and 0 <= weight <= 1 for weight in weights
    ):
        raise UserError(f"{path} is damaged: its weights are no list of numbers from 0 to 1")
    if len(weights) != len(rows) or values["digest"] != digest(rows):
        raise UserError(
            f"{path} is of other training examples than the task has now, so its weights belong to "
            "none of them: give the task as it was, or learn them anew"
        )
    return [float(weight) for weight in weights]
