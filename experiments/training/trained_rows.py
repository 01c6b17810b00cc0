"""Remember which examples a run trained on, to know them again among data that are given later.

``trained_on.txt`` in the run's folder has a line for each different one, in order: its mark, as
:mod:`problems.common.same_examples` makes it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilevel.data import split
from bilevel.errors import UserError
from bilevel.reading import read_text
from bilevel.views import taken
from experiments.cli.writing import write_atomically
from experiments.training.watched import digest
from problems.common.same_examples import DIGITS, mark

if TYPE_CHECKING:
    from problems.common.method import TrainData

__all__ = ["FILE", "held_share", "read", "trained", "write"]

FILE = "trained_on.txt"

Row = dict[str, Any]


def held_share(result: Mapping[str, Any]) -> float | None:
    """``method.hold_out`` of a run; None where its method has none, or it was 0."""
    method = result.get("configuration", {}).get("method")
    return _inside(method.get("hold_out") if isinstance(method, dict) else None)


def _inside(share: Any) -> float | None:
    """A share of the examples; None where that is none of them, or no share."""
    inside = isinstance(share, int | float) and not isinstance(share, bool) and 0 < share < 1
    return float(share) if inside else None


def trained(data: TrainData, result: Mapping[str, Any], hold_out: Any) -> Iterable[Row]:
    """The examples of a run that its weights, or what chose its ranks, were trained on.

    Args:
        data: of the run.
        result: what its result.json says, of a run from Python without its method's options.
        hold_out: that option of its method; None where it has none.
    """
    rows, found = data.examples, result["validation"]
    if found is None:
        return rows
    if found["source"] == "validation":
        return itertools.chain(rows, data.validation or ()) if found["trained_on"] else rows
    share = _inside(hold_out)
    if found["trained_on"] or share is None:
        return rows
    rest, held = split(len(rows), 1 - share, int(result["seed"]), data.labels)
    apart = digest(taken(rows, held)) == found["digest"]
    return taken(rows, rest) if apart else rows


def write(folder: Path, rows: Iterable[Row], seen: Iterable[str] = ()) -> None:
    """Remember these rows in a run's folder.

    Args:
        folder: the run's.
        rows: that it was trained on.
        seen: marks of what the run that it was started from was trained on.

    Raises:
        StorageError: the disk is full.
    """
    lines = sorted({*map(mark, rows), *seen})
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
