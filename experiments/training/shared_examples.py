"""Tell which examples stand both in what is trained on and in what is scored or chosen by.

A file of checked rows that were copied out of the training file, say, or a row that stands twice in
one file of which a share is the test set. Which examples are the same:
:mod:`problems.common.same_examples`. Nothing is left out: a benchmark's test set stays what it is.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from problems.common.same_examples import mark

__all__ = ["say_shared"]

log = logging.getLogger(__name__)

Row = Mapping[str, Any]


def say_shared(
    train: Iterable[Row], validation: Collection[Row], tests: Mapping[str, Collection[Row]]
) -> None:
    """Warn of examples that are in two of the splits.

    Args:
        train: tokenised examples; gone through once, and none of them is kept.
        validation: the same of the validation split; none without one.
        tests: of each test set, by name.
    """
    ours = list(map(mark, validation))
    theirs = {name: list(map(mark, rows)) for name, rows in tests.items()}
    trained = set(ours).union(*theirs.values()).intersection(map(mark, train))
    if count := _among(ours, trained):
        log.warning(
            "%d of the %d validation examples stand in the training data too: what is chosen or "
            "learned by them, or trusted, was trained on; leave them out of one",
            *(count, len(ours)),
        )
    for name, marks in theirs.items():
        called = "test" if len(theirs) == 1 else name
        for others, place in ((trained, "training"), (set(ours), "validation")):
            if count := _among(marks, others):
                log.warning(
                    "%d of the %d %s examples stand in the %s data too, so their scores are not of "
                    "new texts: leave them out of one",
                    *(count, len(marks), called, place),
                )


def _among(marks: Sequence[str], others: Collection[str]) -> int:
    return sum(each in others for each in marks)
