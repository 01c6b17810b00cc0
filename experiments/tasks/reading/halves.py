"""Refuse half a character (a surrogate), which no tokenizer takes and no file can hold."""

from __future__ import annotations

from bilevel.errors import UserError

__all__ = ["refuse_halves"]


def refuse_halves(text: str, place: str) -> None:
    """Refuse a text that holds half a character.

    Args:
        text: as JSON's escapes, or Python's, can hold it.
        place: where it stands, for the message.

    Raises:
        UserError: it does.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start].encode("unicode_escape").decode()
        raise UserError(
            f"{place} holds half a character, {half}, as where a text was cut within one: "
            "leave it out"
        ) from error
