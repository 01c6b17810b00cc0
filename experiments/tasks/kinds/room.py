"""Check that virtual tokens, a source and its answer fit a model's positions together."""

from __future__ import annotations

from collections.abc import Sequence

from bilevel.errors import UserError
from experiments.answers import Decoding

__all__ = ["check_room"]


def check_room(
    prompts: Sequence[list[int]],
    decoding: Decoding,
    virtual_tokens: int,
    positions: int | None,
    seq2seq: bool,
) -> None:
    """Refuse, before anything is trained, answers that would run out of the model's positions.

    Args:
        prompts: token ids; without virtual tokens the task has seen to it that they fit.
        decoding: how long an answer may be.
        virtual_tokens: that a method puts before each prompt.
        positions: that the model has; None without a limit.
        seq2seq: answers have positions of their own.

    Raises:
        UserError: a prompt is too long.
    """
    longest = max((len(prompt) for prompt in prompts), default=0)
    answer = 0 if seq2seq else decoding.max_new_tokens
    if virtual_tokens and positions is not None and longest + answer + virtual_tokens > positions:
        raise UserError(
            f"method.virtual_tokens={virtual_tokens}, a source of {longest} tokens and an answer "
            f"of up to {answer} exceed the model's {positions} positions: use fewer virtual "
            "tokens, or a smaller task.max_length or task.decoding.max_new_tokens"
        )
