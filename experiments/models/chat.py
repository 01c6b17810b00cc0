r"""Tokenise conversations by a tokenizer's chat template, and find what the assistant says in them.

Where the template marks it (``{% generation %}``), transformers tells which tokens are the
assistant's. Where not, a turn goes from the end of the text that asks for it (the messages before
it, with the generation prompt) to the end of the text that has it. Either way it ends with the
token that ends a text, if there is one: what a template writes after it nobody has to learn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from bilevel.errors import UserError

__all__ = ["check_template", "encode", "prompt_tokens"]

Conversation = Sequence[Mapping[str, str]]

MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")


def check_template(tokenizer: Any, seq2seq: bool) -> None:
    """Refuse a model that has no way to write a conversation.

    Raises:
        UserError: an encoder with a decoder, a tokenizer without a template, or one that does not
            tell where in a text its tokens are.
    """
    if seq2seq:
        raise UserError(
            "task.chat_template=true is for causal models, and this one has an encoder and a "
            "decoder: take task.chat_template=false"
        )
    if tokenizer.chat_template is None:
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template: take a model that "
            "was tuned on conversations (often called Instruct or Chat), or "
            "task.chat_template=false"
        )
    if not tokenizer.is_fast:
        raise UserError(
            f"{type(tokenizer).__name__} does not tell where in a text its tokens are, which "
            "task.chat_template=true needs: take a model with a fast tokenizer (tokenizer.json)"
        )


def prompt_tokens(tokenizer: Any, messages: Conversation) -> list[int]:
    """The tokens after which an assistant answers the messages.

    Raises:
        UserError: the template refuses the messages.
    """
    return list(_tokens(tokenizer, _text(tokenizer, messages, True))["input_ids"])


def encode(tokenizer: Any, messages: Conversation) -> tuple[list[int], list[bool]]:
    """The tokens of a conversation, and of each whether an assistant says it.

    Args:
        tokenizer: with a template.
        messages: the last one is the assistant's.

    Returns:
        Token ids and marks, of equal length; the last token is one that an assistant says.

    Raises:
        UserError: the template refuses the messages, or leaves out what the assistant says.
    """
    if MARKED.search(str(tokenizer.get_chat_template())):
        _text(tokenizer, messages, False)  # says what is wrong with the messages
        found = tokenizer.apply_chat_template(
            list(messages), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, said = list(found["input_ids"]), [bool(mark) for mark in found["assistant_masks"]]
    else:
        ids, said = _by_prefixes(tokenizer, messages)
    if not any(said):
        raise UserError(
            f"the chat template of {tokenizer.name_or_path} leaves out what the assistant says in "
            f"{str(messages[-1]['content'])[:60]!r}"
        )
    end = len(said) - said[::-1].index(True)
    return ids[:end], said[:end]


def _by_prefixes(tokenizer: Any, messages: Conversation) -> tuple[list[int], list[bool]]:
    whole = _text(tokenizer, messages, False)
    found = _tokens(tokenizer, whole, return_offsets_mapping=True)
    ids = list(found["input_ids"])
    said = [False] * len(ids)
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        start, end = _span(tokenizer, messages, number, whole)
        inside = [i for i, (a, b) in enumerate(found["offset_mapping"]) if start <= a < b <= end]
        ends = [i for i in inside if ids[i] == tokenizer.eos_token_id]
        for i in inside:
            said[i] = not ends or i <= ends[0]
    return ids, said


def _span(tokenizer: Any, messages: Conversation, number: int, whole: str) -> tuple[int, int]:
    """Where in the whole text an assistant's message begins and ends.

    Some templates write a turn otherwise once others follow it (they leave out what was thought);
    then its end is that of its content, with the token that ends a text where it follows.
    """
    before = _text(tokenizer, messages[:number], True)
    turn = _text(tokenizer, messages[: number + 1], False)
    if whole.startswith(before) and whole.startswith(turn):
        return len(before), len(turn)
    content = str(messages[number]["content"]).strip()
    place = whole.find(content, len(before)) if whole.startswith(before) else -1
    if place < 0:
        raise UserError(
            f"the chat template of {tokenizer.name_or_path} writes earlier turns otherwise once "
            "others follow, so that what the assistant says cannot be told: give conversations of "
            "one answer each, or a template with {% generation %}"
        )
    end = place + len(content)
    mark = tokenizer.eos_token or ""
    return len(before), end + (len(mark) if whole.startswith(mark, end) else 0)


def _text(tokenizer: Any, messages: Conversation, answer: bool) -> str:
    try:
        text: str = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=answer
        )
    except (TemplateError, ValueError) as error:
        roles = ", ".join(message["role"] for message in messages)
        raise UserError(
            f"the chat template of {tokenizer.name_or_path} refuses a conversation of {roles}: "
            f"{error}"
        ) from error
    return text


def _tokens(tokenizer: Any, text: str, **options: Any) -> Any:
    # A template writes the special tokens itself.
    return tokenizer(text, add_special_tokens=False, verbose=False, **options)
