"""Remember which examples a run trained on, to know them again among data that are given later.

``trained_on.txt`` in the run's folder has a line for each different one, in order: the first twelve
hexadecimal digits of the SHA-256 of its tokens. The label is left out, as a text that was trained
on with another label was trained on too. A wrong match of n such lines and m other examples has a
chance of n m / 2^48.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilevel.data import split
from bilevel.errors import UserError
from bilevel.reading import read_text
from bilevel.views import taken
from experiments.cli.writing import write_atomically
from experiments.models.batching import tokens_of
from experiments.training.watched import digest

if TYPE_CHECKING:
    from problems.common.method import TrainData

__all__ = ["FILE", "held_share", "new_among", "read", "trained", "write"]

FILE = "trained_on.txt"
DIGITS = 12

Row = dict[str, Any]


def held_share(result: Mapping[str, Any]) -> float | None:
    """``method.hold_out`` of a run; None where its method has none, or it was 0."""
    method = result.get("configuration", {}).get("method")
    share = method.get("hold_out") if isinstance(method, dict) else None
    inside = isinstance(share, int | float) and not isinstance(share, bool) and 0 < share < 1
    return float(share) if inside else None  # type: ignore[arg-type]


def trained(data: TrainData, result: Mapping[str, Any]) -> Iterable[Row]:
    """The examples of a run that its weights, or what chose its ranks, were trained on.

    Args:
        data: of the run.
        result: what its result.json says.
    """
    rows, found = data.examples, result["validation"]
    if found is None:
        return rows
    if found["source"] == "validation":
        return itertools.chain(rows, data.validation or ()) if found["trained_on"] else rows
    share = held_share(result)
    if found["trained_on"] or share is None:
        return rows
    rest, held = split(len(rows), 1 - share, int(result["seed"]), data.labels)
    apart = digest(taken(rows, held)) == found["digest"]
    return taken(rows, rest) if apart else rows


def write(folder: Path, rows: Iterable[Row]) -> None:
    """Remember these rows in a run's folder.

    Raises:
        StorageError: the disk is full.
    """
    lines = sorted({_mark(row) for row in rows})
    write_atomically(folder / FILE, "".join(f"{line}\n" for line in lines))


def read(folder: Path) -> set[str] | None:
    """What :func:`write` wrote; None of an older run, which has no such file.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    lines = read_text(path).splitlines()
    if not all(re.fullmatch(f"[0-9a-f]{{{DIGITS}}}", line) for line in lines):
        raise UserError(f"{path} is damaged: a line is not of {DIGITS} hexadecimal digits")
    return set(lines)


def new_among(rows: Sequence[Row], known: set[str]) -> list[Row]:
    """Those of the rows that are not among what was trained on."""
    return [row for row in rows if _mark(row) not in known]


def _mark(row: Row) -> str:
    tokens = json.dumps([int(token) for token in tokens_of(row)])
    return hashlib.sha256(tokens.encode()).hexdigest()[:DIGITS]
