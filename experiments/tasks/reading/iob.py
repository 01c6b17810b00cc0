"""Check and convert IOB tags: O, B-TYPE for the first word of an entity and I-TYPE for the others.

In IOB1 an entity begins with I-TYPE, unless it follows another one of its type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from bilevel.errors import UserError

__all__ = ["tag_names", "to_iob2"]


def to_iob2(tags: Sequence[str], scheme: str, place: Callable[[int], str]) -> tuple[str, ...]:
    """Check the tags of a sentence; IOB1 is converted.

    Args:
        tags: of its words.
        scheme: "iob2" or "iob1".
        place: says where the tag of that number stands, for error messages.

    Raises:
        UserError: a tag is of another form, or with IOB2 an entity does not begin with B-.
    """
    result: list[str] = []
    before = "O"
    for number, tag in enumerate(tags):
        prefix, _, kind = tag.partition("-")
        if tag != "O" and (prefix not in ("B", "I") or not kind):
            raise UserError(
                f"{place(number)} has the tag {tag!r}: allowed are O, B-TYPE and I-TYPE "
                "(IOB2, or IOB1 with task.scheme=iob1)"
            )
        begins = prefix == "I" and before[2:] != kind
        if begins and scheme == "iob2":
            raise UserError(
                f"{place(number)} has the tag {tag!r} after {before!r}: in IOB2 an entity begins "
                f"with B-{kind}; task.scheme=iob1 takes files where it may begin with I-"
            )
        before = f"B-{kind}" if begins else tag
        result.append(before)
    return tuple(result)


def tag_names(sentences: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """O, and B- and I- of each type that occurs, in the order of the types' names."""
    types = sorted({tag[2:] for tags in sentences for tag in tags if tag != "O"})
    return ("O", *(f"{prefix}-{kind}" for kind in types for prefix in "BI"))
