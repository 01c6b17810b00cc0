"""Cells of rows that come from Python, where a text may be what no file holds."""

import pytest

from bilevel.errors import UserError
from experiments.tasks.reading.cells import text_of, words_of


def test_half_a_character_is_no_text() -> None:
    assert text_of("a whole one \U0001f600", "text", "row 0") == "a whole one \U0001f600"
    with pytest.raises(UserError, match=r"row 3 holds half a character, \\ud83d"):
        text_of("\ud83d", "text", "row 3")


def test_half_a_character_is_no_word() -> None:
    with pytest.raises(UserError, match=r"row 3 holds half a character, \\udc00"):
        words_of(["good", "\udc00"], "row 3")
