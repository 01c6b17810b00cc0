"""Say what is odd about training labels: marks of no label, and numbers that are taken for classes.

A mark like -1 may be a class (sentiment of -1, 0 and 1), so it is trained on and said. Numbers with
a fraction of which nearly every example has its own cannot be classes: that is refused.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Collection, Sequence

from bilevel.errors import UserError, listed
from experiments.tasks.reading.spelling import look_alike

__all__ = ["check_classes", "say_look_alikes", "say_odd_numbers", "say_unseen"]

log = logging.getLogger(__name__)

UNKNOWN = frozenset(
    ["-1", "-100", "nan", "none", "null", "n/a", "na", "?", "unlabeled", "unlabelled", "no label"]
)
MANY = 10  # classes; of fewer examples nothing can be said


def check_classes(names: Sequence[str], numbers: Sequence[int], where: str) -> None:
    """Warn of classes that may be none.

    Args:
        names: of the classes.
        numbers: of each training example's class.
        where: the training data, for messages.

    Raises:
        UserError: the labels are numbers with a fraction, and most examples have their own.
    """
    say_look_alikes(names, where)
    counts = Counter(numbers)
    for number, name in enumerate(names):
        if name.strip().lower() in UNKNOWN:
            log.warning(
                "%s: %d of %d rows have the label %r, which often marks rows without a label; here "
                "it is a class like the others: leave these rows out if it is none",
                *(where, counts[number], len(numbers), name),
            )
    own = len(names) > max(MANY, len(numbers) / 2)
    if _are_fractions(names):
        kinds = (
            f"{where}: the {len(names)} labels of {len(numbers)} rows are numbers ({_few(names)})"
        )
        if own:
            raise UserError(
                f"{kinds} and most rows have one of their own: task.regression=true predicts "
                "numbers, or round them to a few classes"
            )
        log.warning(
            "%s, each taken as a class of its own: task.regression=true predicts numbers", kinds
        )
    elif own:
        log.warning(
            "%s: %d rows have %d labels (%s), so most classes have one example: is "
            "task.label_column the column of the labels? (task.regression=true predicts numbers)",
            *(where, len(numbers), len(names), _few(names)),
        )


def say_look_alikes(names: Sequence[str], where: str, what: str = "labels") -> None:
    """Warn of labels, or sources, that a reader takes for one: each stays one of its own."""
    groups: dict[object, list[str]] = {}
    for name in names:
        groups.setdefault(look_alike(name), []).append(name)
    for group in groups.values():
        if len(group) > 1:
            log.warning(
                "%s: the %s %s differ in capitals, in signs that are not seen or in how a number, "
                "or true, is written, and each is %s of its own: write them alike if they are one",
                *(where, what, listed(map(ascii, group))),
                "a class" if what == "labels" else "one",
            )


def say_unseen(classes: Sequence[str], numbers: Collection[int], where: str) -> None:
    """Warn of classes that no training example has."""
    unseen = [name for number, name in enumerate(classes) if number not in numbers]
    if unseen:
        log.warning(
            "%s has no example of %d of the model's %d classes (%s): they cannot be learned",
            *(where, len(unseen), len(classes), _few(unseen)),
        )


def say_odd_numbers(targets: Sequence[float], where: str) -> None:
    """Warn of targets that are all the same, or one like -1 below others that are 0 or more."""
    lowest = min(targets, default=0.0)
    if len(targets) > 1 and max(targets) == lowest:
        log.warning(
            "%s: all %d targets are %g: there is nothing to tell", where, len(targets), lowest
        )
    if lowest in (-1, -100) and all(t >= 0 for t in targets if t != lowest):
        count = sum(t == lowest for t in targets)
        log.warning(
            "%s: %d of %d rows have the target %g and all others 0 or more; it often marks rows "
            "without a label, and here it is learned like the others",
            *(where, count, len(targets), lowest),
        )


def _are_fractions(names: Sequence[str]) -> bool:
    """Whether all are numbers, and one at least is no whole one."""
    try:
        numbers = [float(name) for name in names]
    except ValueError:
        return False
    return all(map(math.isfinite, numbers)) and not all(n.is_integer() for n in numbers)


def _few(names: Sequence[str]) -> str:
    return listed(names[:3]) + (", ..." if len(names) > 3 else "")
