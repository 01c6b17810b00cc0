"""Drop, relabel or weight examples, and say what LoRA is then trained on."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeVar

import numpy as np

from bilevel.errors import UserError, listed
from experiments.answers import CLASSES, NUMBER, TAGS
from experiments.suspecting.find import Found
from experiments.tasks.task import TaskData

__all__ = ["COUNTED", "ONLY_TRUSTED", "SCORED", "Apply", "applied", "check", "check_left"]

Apply = Literal["drop", "relabel", "pooled", "weight", "trusted", "then_trusted"]
ONLY_TRUSTED = ("trusted", "then_trusted")
COUNTED = ("drop", "relabel")  # so many suspects, by a score
SCORED = (*COUNTED, "pooled")  # go by what this program trains for
D = TypeVar("D", bound=TaskData)


def check(
    task: TaskData, apply: Apply | None, count: int | None, learned: bool, batch: int = 1
) -> None:
    """Refuse what cannot be done, before anything is trained.

    Args:
        task: the data.
        apply: what is to be done; None for nothing.
        count: of suspects that is given; None for the estimate.
        learned: whether the run has learned weights.
        batch: examples of a step.

    Raises:
        UserError: there are no classes to relabel by, no weights, nothing to start from, or no such
            number of suspects.
    """
    classes = task.answers.kind in (CLASSES, TAGS)
    whole = task.answers.kind in (CLASSES, NUMBER)  # as model.warm_start
    others = ["drop", *["relabel", "pooled"] * classes, *["weight"] * learned, "trusted"]
    others += ["then_trusted"] * whole
    if apply == "then_trusted" and not whole:
        raise UserError(
            f"apply=then_trusted starts from the run's weights, which needs a label or a number a "
            f"text, and task {task.name} has none: allowed are {listed(others)}"
        )
    if apply in ("relabel", "pooled") and not classes:
        raise UserError(
            f"apply={apply}: task {task.name} has no classes or tags to choose another from: "
            f"allowed are {listed(others)}"
        )
    if apply == "weight" and not learned:
        raise UserError(
            "apply=weight takes the weights that method=example_weights learns, and the run has "
            f"none: allowed are {listed(others)}"
        )
    if apply not in COUNTED:
        if count is not None:
            raise UserError(
                f"count={count} says how many suspects are dropped or relabelled: give apply=drop "
                "or apply=relabel with it, or leave it out"
            )
        return
    if count is None and not classes:
        raise UserError(
            f"apply={apply} needs count=N: without classes there is no estimate of how many labels "
            "are wrong"
        )
    if count is not None and count >= len(task.train):
        raise UserError(
            f"count={count} would leave none of the {len(task.train)} training examples as it is: "
            "give fewer, or apply=trusted, which trains on the trusted ones alone"
        )
    if count is not None:
        check_left(task, apply, count, batch)


def check_left(task: TaskData, apply: Apply, count: int, batch: int) -> None:
    """Refuse to drop so many that what is left is less than one batch.

    Raises:
        UserError: it is.
    """
    most = len(task.train) + len(task.validation or ()) - batch
    if apply == "drop" and count > most:
        raise UserError(
            f"count={count}: dropping so many of the {len(task.train)} training examples leaves "
            f"fewer than one batch of {batch} with the {len(task.validation or ())} trusted ones: "
            f"give {max(most, 0)} or less, or apply=trusted"
        )


def applied(task: D, found: Found | None, apply: Apply, by: str, count: int) -> D:
    """The data to train on: no validation split is left.

    Args:
        task: the data.
        found: the scores; None for what needs none.
        apply: ``drop`` leaves the suspects out, ``relabel`` gives them the proposed label,
            ``pooled`` gives all the likeliest label and counts each by how sure that is, ``weight``
            keeps all under the learned weights; trusted ones count in full, and where sources are
            drawn by weights, as often as the mean of the others.
            ``trusted`` and ``then_trusted`` leave nothing but these (the latter is for a model
            that has seen the rest): the competitors of all others.
        by: the column that tells suspects.
        count: of the suspects.
    """
    trusted = list(task.validation or ())
    if apply in ONLY_TRUSTED:
        return replace(task, train=trusted, validation=None, weights=None, draw_weights=None)
    assert found is not None
    suspects = found.scores.ranks(by) <= count
    train = list(task.train)
    weights = None if task.weights is None else np.array(task.weights)  # the task's own
    own = np.ones(len(train)) if weights is None else weights
    if apply == "drop":
        train = [e for e, out in zip(train, suspects, strict=True) if not out]
        weights = None if weights is None else weights[~suspects]
    elif apply in ("relabel", "pooled"):
        name = "label" if task.answers.kind == CLASSES else "tags"
        train = [
            e._replace(**{name: label}) if out or apply == "pooled" else e
            for e, label, out in zip(train, found.proposed, suspects, strict=True)
        ]
        if apply == "pooled":
            assert found.sure is not None
            weights = own * found.sure
    else:
        weights = own * (1 - found.scores.columns["weight"])
    all_weights = None if weights is None else (*weights.tolist(), *(1.0 for _ in trusted))
    draw = None
    if task.draw_weights is not None:
        kept = ~suspects if apply == "drop" else np.ones(len(suspects), bool)
        mean = sum(task.draw_weights) / len(task.draw_weights)  # as their number says
        draw = (*np.array(task.draw_weights)[kept].tolist(), *(mean for _ in trusted))
    return replace(
        task, train=[*train, *trusted], validation=None, weights=all_weights, draw_weights=draw
    )
