"""Keep the two texts of a pair apart where a model's tokenizer puts nothing between them."""

from __future__ import annotations

from typing import Any

from bilevel.errors import UserError

__all__ = ["separator"]


def separator(tokenizer: Any) -> str:
    """What to put before the second text of a pair; nothing where the tokenizer parts them itself.

    BERT's and RoBERTa's do. GPT-2's "the film" and "plot was" would be read as "the filmplot was":
    there it is the tokenizer's own separator, a line break, or the end of text, the first that it
    has.

    Raises:
        UserError: the tokenizer has none of these.
    """
    first, second = ("a", "b")
    whole = [*_tokens(tokenizer, first), *_tokens(tokenizer, second)]
    pair = list(tokenizer(first, second)["input_ids"])
    if not any(pair[i : i + len(whole)] == whole for i in range(len(pair))):
        return ""
    together = (_tokens(tokenizer, f"{first}{second}"), _tokens(tokenizer, f"{first} {second}"))
    for text in filter(None, (tokenizer.sep_token, "\n", tokenizer.eos_token)):
        known = _tokens(tokenizer, text)
        parted = _tokens(tokenizer, f"{first}{text}{second}")
        if known and tokenizer.unk_token_id not in known and parted not in together:
            return str(text)
    raise UserError(
        f"{type(tokenizer).__name__} has nothing to put between the two texts of a pair (a "
        "separator token, a line break or an end of text): join them in one column, or take "
        "another model"
    )


def _tokens(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
