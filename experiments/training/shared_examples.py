"""Tell which examples stand both in what is trained on and in what is scored or chosen by.

What a model was trained on it knows, so such an example says little of new ones: a file of checked
rows that were copied out of the training file, say, or a row that stands twice in one file of which
a share is the test set. Examples are held against each other by their tokens, without the labels.
Nothing is left out: a benchmark's test set stays what it is.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from experiments.models.batching import tokens_of

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
    ours = [_mark(row) for row in validation]
    theirs = {name: [_mark(row) for row in rows] for name, rows in tests.items()}
    asked = {*ours, *(mark for marks in theirs.values() for mark in marks)}
    trained = {mark for row in train if (mark := _mark(row)) in asked}
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


def _among(marks: Sequence[int], others: Collection[int]) -> int:
    return sum(mark in others for mark in marks)


def _mark(row: Row) -> int:
    return hash(tuple(tokens_of(row)))
