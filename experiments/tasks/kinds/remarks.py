"""Say once in the log what tokenised texts have lost: what was cut, and what no token knows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

__all__ = ["say_cut", "say_unknown"]

log = logging.getLogger(__name__)


def say_cut(what: str, lengths: Sequence[int], allowed: int, count: int, option: str) -> None:
    """Tell how many texts were cut, and how long they were.

    Args:
        what: the texts are, "texts".
        lengths: tokens that those that were cut have as a whole.
        allowed: tokens.
        count: of all texts.
        option: that allows them.
    """
    if lengths:
        log.warning(
            "%d of %d %s are cut: the longest has %d tokens, and %d are allowed (%s)",
            *(len(lengths), count, what, max(lengths), allowed, option),
        )


def say_unknown(what: str, tokenizer: Any, rows: Sequence[Sequence[int]]) -> None:
    """Tell how many texts hold no word that the tokenizer knows.

    Args:
        what: the texts are, "texts".
        tokenizer: of the model.
        rows: the tokens of each.
    """
    special = set(tokenizer.all_special_ids)  # the unknown token is one of them
    found = [i for i, row in enumerate(rows) if special.issuperset(row)]
    if found:
        log.warning(
            "%d of %d %s hold no word that the model's tokenizer knows (its vocabulary has %d), "
            "the first is number %d: to the model they are all alike",
            *(len(found), len(rows), what, len(tokenizer), found[0]),
        )
