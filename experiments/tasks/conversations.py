"""Read conversations out of rows: [{role: user, content: ...}, {role: assistant, ...}, ...]."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bilevel.errors import UserError, listed
from experiments.tasks.reading.cells import is_list, kind_of, looks_printed
from experiments.tasks.reading.halves import refuse_halves

__all__ = ["Messages", "as_source", "messages_of", "of_source"]

Messages = list[dict[str, str]]

ROLES = ("system", "user", "assistant")
SHOWN = 60  # characters of a value in a message


def messages_of(value: Any, column: str, place: str) -> Messages:
    """The messages in a cell, in OpenAI's and TRL's form, each with its role and text.

    Args:
        value: of the cell.
        column: its name.
        place: where the row stands.

    Raises:
        UserError: it is no list of messages, one has another role or no text, or none is a user's.
    """
    where = f"{place}, column {column!r}"
    if isinstance(value, str) and (looks_printed(value) or value.lstrip().startswith("[")):
        raise UserError(
            f"{where}: a list that was printed into a text; jsonl and parquet files hold lists"
        )
    if not is_list(value) or not len(value):
        raise UserError(
            f"{where} has {kind_of(value)}: this must be a list of messages, "
            "[{role: user, content: ...}, {role: assistant, content: ...}]"
        )
    found = [_message(message, number, where) for number, message in enumerate(value)]
    if any(message["role"] == "system" for message in found[1:]):
        raise UserError(f"{where}: a system's message must be the first")
    if all(message["role"] != "user" for message in found):
        raise UserError(f"{where} has no message of a user")
    return found


def _message(value: Any, number: int, where: str) -> dict[str, str]:
    message = f"{where}, message {number}"
    if not isinstance(value, Mapping) or not {"role", "content"} <= value.keys():
        has = listed(map(repr, value)) if isinstance(value, Mapping) else kind_of(value)
        raise UserError(f"{message} must be an object with role and content, and has {has}")
    role, content = value["role"], value["content"]
    if role not in ROLES:
        raise UserError(
            f"{message} has the role {str(role)[:SHOWN]!r}: allowed are {listed(ROLES)}"
        )
    if not isinstance(content, str) or not content.strip():
        what = "an empty text" if isinstance(content, str) else kind_of(content)
        raise UserError(f"{message} has {what} as its content: this must be a text")
    refuse_halves(content, message)
    if value.get("tool_calls") is not None and len(value["tool_calls"]):
        raise UserError(f"{message} calls tools, which are not learned: leave such rows out")
    return {"role": role, "content": content}


def as_source(messages: Sequence[Mapping[str, str]]) -> str:
    """The messages before an answer as one text, JSON, which stands for them in examples."""
    return json.dumps(list(messages), ensure_ascii=False)


def of_source(source: str) -> Messages:
    """What :func:`as_source` was given."""
    found: Messages = json.loads(source)
    return found
