"""Read triples (subject, property, object) from a cell and write them as a source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bilevel.errors import UserError
from experiments.tasks.reading.cells import is_list, text_of
from experiments.tasks.reading.files import is_missing

__all__ = ["Triple", "linearised", "triples"]

Triple = tuple[str, str, str]

SEPARATOR = " | "  # between the parts of a triple that is one text, as WebNLG writes it


def triples(cell: Any, place: str) -> list[Triple]:
    """A cell's triples: each one text "s | p | o", or a list of three.

    Raises:
        UserError: the cell holds no list of them.
    """
    found = []
    for item in cell if is_list(cell) else [cell]:
        parts = item.split(SEPARATOR, 2) if isinstance(item, str) else item
        if not is_list(parts) or len(parts) != 3 or any(map(is_missing, parts)):
            raise UserError(
                f"{place} has {item!r} for a triple: this must be 's | p | o' or a list of three"
            )
        subject, relation, thing = (text_of(part, "of triples", place) for part in parts)
        found.append((subject, relation, thing))
    if not found:
        raise UserError(f"{place} has no triples")
    return found


def linearised(found: Sequence[Triple]) -> str:
    """``s : p : o | s : p : o``, the form of LoRA's code; underscores stay, as there."""
    return " | ".join(f"{s} : {p} : {o}" for s, p, o in found)
