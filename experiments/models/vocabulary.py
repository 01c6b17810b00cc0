"""Check that a model has an embedding for every token that its tokenizer or a row may give it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bilevel.errors import UserError, listed
from bilevel.labels import NO_LABEL
from problems.common.records import tokens_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["check_rows", "check_tokenizer", "size"]

ADVICE = (
    "give the model its own tokenizer, or resize its embeddings with "
    "model.resize_token_embeddings(len(tokenizer)) and save both in one folder"
)


def size(model: PreTrainedModel) -> int | None:
    """How many tokens the model has an embedding for; None where that cannot be told."""
    weight = getattr(model.get_input_embeddings(), "weight", None)
    return None if weight is None else int(weight.shape[0])


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, tokens: int | None, model: str) -> None:
    """Refuse a tokenizer of another model, or with tokens that the model was not resized for.

    An added token that is special, and of no kind used here, is left to :func:`check_rows`: Gemma's
    tokenizer has one for images, which its text models have no embedding for.

    Args:
        tokenizer: of the model.
        tokens: that the model has; None if unknown.
        model: its name, for the message.

    Raises:
        UserError: the vocabulary, or a special token, is beyond the embeddings.
    """
    if tokens is None:
        return
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    special = {str(token) for token in tokenizer.special_tokens_map.values()}
    beyond = {
        token: number
        for token, number in tokenizer.get_vocab().items()
        if number >= tokens and (token not in added or token in special)
    }
    if beyond:
        token, number = max(beyond.items(), key=lambda item: item[1])
        raise UserError(
            f"the tokenizer of {model} has {len(beyond)} tokens beyond the model's {tokens} "
            f"embeddings, e.g. {token!r} with the id {number}: {ADVICE}"
        )


def check_rows(
    rows: Iterable[Mapping[str, Any]],
    tokens: int | None,
    where: Callable[[int], str],
    columns: Sequence[str] = ("input_ids",),
) -> None:
    """Refuse rows with a token that the model has no embedding for.

    Args:
        rows: tokenised.
        tokens: that the model has; None if unknown.
        where: what to call the row of a number, counted from 0.
        columns: which hold token ids; labels of text are ids too.

    Raises:
        UserError: names the row.
    """
    if tokens is None:
        return
    for number, row in enumerate(rows):
        for column in columns:
            ids = tokens_of(row) if column == "input_ids" else row[column]
            if ids and not (min(ids) >= 0 and max(ids) < tokens):
                wrong = [n for n in ids if not (0 <= n < tokens or n == NO_LABEL)]
                if wrong or column == "input_ids":
                    raise UserError(
                        f"{where(number)} has the token {listed(wrong[:3] or [NO_LABEL])} in "
                        f"{column}, and the model has embeddings for 0 to {tokens - 1}: {ADVICE}"
                    )
