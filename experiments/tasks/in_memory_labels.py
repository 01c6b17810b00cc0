"""Read the names of classes that data sets of the package ``datasets`` carry (``ClassLabel``)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bilevel.errors import UserError
from experiments.answers import CLASSES, TAGS, Answers

__all__ = ["class_names", "named", "renumbering"]

log = logging.getLogger(__name__)

COLUMNS = ("labels", "label")


def class_names(rows: Iterable[Mapping[str, Any]]) -> tuple[str, ...] | None:
    """The names of the classes (or tags) of a data set's label column; None where it has none."""
    features: Mapping[str, Any] = getattr(rows, "features", None) or {}
    feature = next((features[column] for column in COLUMNS if column in features), None)
    feature = getattr(feature, "feature", feature)  # a list of tags
    names = getattr(feature, "names", None)
    return tuple(map(str, names)) if names else None


def named(answers: Answers, data: Mapping[str, Iterable[Mapping[str, Any]]]) -> Answers:
    """The answers with the names that the training data has for them.

    Args:
        answers: of the model; its own names may be those of other data.
        data: split -> rows.

    Raises:
        UserError: the training data names another number of classes than the model has outputs.
    """
    names = class_names(data.get("train", ()))
    if names is None or answers.kind not in (CLASSES, TAGS):
        return answers
    if len(names) != answers.size:
        raise UserError(
            f"data['train'] has {len(names)} classes ({', '.join(names)}), and the model's head "
            f"has {answers.size} outputs: load the model with num_labels={len(names)}"
        )
    own = answers.names or ()
    if own != names and any(not name.startswith("LABEL_") for name in own):
        log.warning(
            "the model's configuration names its classes %s, the training data %s: the result has "
            "the names of the data",
            *(", ".join(own), ", ".join(names)),
        )
    return replace(answers, names=names)


def renumbering(
    split: str, names: Sequence[str] | None, trained: Sequence[str] | None
) -> Callable[[Mapping[str, Any]], dict[str, Any]] | None:
    """What gives a row of a split the numbers that its classes have in the training data, by name.

    Args:
        split: its name, for the message.
        names: of its classes; None without names.
        trained: names of the training data's classes; None likewise.

    Returns:
        From a row to a row; None where the numbers are right, or names are missing.

    Raises:
        UserError: a class of the split is none of the training data.
    """
    if names is None or trained is None or tuple(names) == tuple(trained):
        return None
    if not set(names) <= set(trained):
        raise UserError(
            f"data[{split!r}] has the classes {', '.join(names)}, and data['train'] has "
            f"{', '.join(trained)}: they must be the same"
        )
    numbers = {number: list(trained).index(name) for number, name in enumerate(names)}

    def label(value: Any) -> Any:
        value = value.tolist() if hasattr(value, "tolist") else value
        if isinstance(value, list | tuple):
            return [label(each) for each in value]
        return numbers.get(value, value)  # -100 stays, and so does what is told as a mistake later

    return lambda row: {k: label(v) if k in COLUMNS else v for k, v in row.items()}
