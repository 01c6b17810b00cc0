"""Make rows for :func:`experiments.finetune` out of conversations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bilevel.errors import UserError
from bilevel.labels import NO_LABEL
from experiments.models.chat import check_template, encode
from experiments.tasks.conversations import messages_of

__all__ = ["chat_rows"]


def chat_rows(
    tokenizer: Any,
    conversations: Iterable[Sequence[Mapping[str, str]]],
    *,
    last_only: bool = False,
) -> list[dict[str, Any]]:
    """Tokenise conversations by a tokenizer's chat template, with a loss on the assistant's turns.

    Args:
        tokenizer: fast, with a chat template.
        conversations: lists of ``{"role": ..., "content": ...}``, the last one the assistant's.
        last_only: the last answer alone has labels, as a test needs it, whose text is written after
            what has none; and the rows have it as ``references``.

    Returns:
        A row of ``input_ids``, ``attention_mask`` and ``labels`` (-100 where nothing is learned)
        for each conversation. None is cut.

    Raises:
        UserError: there is no template, or it refuses a conversation; or one is not as above.
    """
    check_template(tokenizer, seq2seq=False)
    rows: list[dict[str, Any]] = []
    for number, conversation in enumerate(conversations):
        messages = messages_of(conversation, "messages", f"conversation {number}")
        if messages[-1]["role"] != "assistant":
            raise UserError(f"conversation {number} does not end with an assistant's message")
        ids, said = encode(tokenizer, messages)
        first = 0
        if last_only:
            first = max((i + 1 for i, mark in enumerate(said) if not mark), default=0)
        labels = [
            token if mark and i >= first else NO_LABEL
            for i, (token, mark) in enumerate(zip(ids, said, strict=True))
        ]
        row: dict[str, Any] = {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}
        rows.append({**row, "references": [messages[-1]["content"]]} if last_only else row)
    return rows
