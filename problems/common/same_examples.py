"""Say when two tokenised examples are the same one, so that none is both trained on and held out.

What a model was trained on it knows, so such an example says little of new ones. Two are the same
if their tokens are, those of all windows or choices in order. The label is left out, as a text that
was trained on with another label was trained on too; a causal model's target is among the tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

from problems.common.records import tokens_of

__all__ = ["DIGITS", "mark", "unseen"]

DIGITS = 12

Row = Mapping[str, Any]
R = TypeVar("R", bound=Row)


def mark(row: Row) -> str:
    """What tells a tokenised example from all that are not the same, on the disk too.

    Returns:
        The first DIGITS hexadecimal digits of the SHA-256 of its tokens. The chance of a wrong
        match between n such marks and m other examples is n m / 2^48.
    """
    tokens = str([int(token) for token in tokens_of(row)])
    return hashlib.sha256(tokens.encode()).hexdigest()[:DIGITS]


def unseen(rows: Collection[R], trained: Iterable[str]) -> list[R]:
    """Those of the rows that are the same as no trained one.

    Args:
        rows: held out.
        trained: the marks of what was trained on; gone through once, and those that none of the
            rows has are not kept, as there may be millions.
    """
    marks = [mark(row) for row in rows]
    known = set(marks).intersection(trained)
    return [row for row, own in zip(rows, marks, strict=True) if own not in known]
