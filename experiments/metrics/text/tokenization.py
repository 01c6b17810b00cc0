"""Choose how texts are cut into words for their scores, by the script that they are written in.

The papers' scores are of English: 13a cuts at ASCII punctuation, ROUGE knows the letters a to z. Of
Russian that leaves ROUGE nothing, of Chinese one word a sentence. sacrebleu has tokenizers for
others, and every metric here can take their tokens.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import cache, lru_cache
from typing import Literal, get_args

from bilevel.errors import UserError, listed, nearest

__all__ = ["ENGLISH", "Tokenization", "bare_words", "check_tokenization", "chosen", "tokens"]

Tokenization = Literal["auto", "13a", "intl", "zh", "char"]
ENGLISH = "13a"

# Scripts without spaces between words, by how Unicode's names of their letters begin.
HAN = "CJK"
UNSPACED = ("HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
MANY, SOME = 0.1, 0.01  # shares of letters: a name or a loan word makes no text of another script


def check_tokenization(name: str, option: str) -> None:
    """Raise UserError for another name than those of `Tokenization`."""
    known = get_args(Tokenization)
    if name not in known:
        raise UserError(f"{option}={name}: allowed are {listed(known)}{nearest(name, known)}")


def chosen(tokenization: str, references: Iterable[Sequence[str]]) -> str:
    """The tokenization itself, or for ``auto`` the one that fits the script of the references.

    ``13a`` for (nearly) plain Latin letters; ``intl`` for other scripts and accents; ``zh`` for
    Chinese, a character a word; ``char`` for scripts that part no words (Japanese, Thai, Khmer).
    """
    if tokenization != "auto":
        return tokenization
    letters = other = han = unspaced = 0
    for texts in references:
        for text in texts:
            for letter in filter(str.isalpha, unicodedata.normalize("NFC", text)):
                letters += 1
                if letter.isascii():
                    continue
                script = _script(letter)
                other += 1
                han += script == HAN
                unspaced += script in UNSPACED
    if han + unspaced > MANY * letters:
        return "char" if unspaced > MANY * (han + unspaced) else "zh"
    return "intl" if other > SOME * letters else ENGLISH


def tokens(text: str, tokenization: str) -> list[str]:
    """The tokens of a text as sacrebleu cuts it; composed characters, but for `ENGLISH`."""
    if tokenization != ENGLISH:
        text = unicodedata.normalize("NFC", text)
    return _tokeniser(tokenization)(text).split()


@lru_cache(maxsize=2**16)
def bare_words(text: str, tokenization: str) -> tuple[str, ...]:
    """Tokens in lower case without punctuation; with it where a text has nothing else."""
    found = tokens(text.lower(), tokenization)
    return tuple(filter(_is_word, found)) or tuple(found)


@lru_cache(maxsize=2**16)
def _script(letter: str) -> str:
    name = unicodedata.name(letter, "")
    return next((script for script in (HAN, *UNSPACED) if name.startswith(script)), "")


def _is_word(token: str) -> bool:
    """Whether there is a letter, a mark of one (vowels of Thai) or a number in a token."""
    return any(unicodedata.category(character)[0] in "LMN" for character in token)


@cache
def _tokeniser(name: str) -> Callable[[str], str]:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
    from sacrebleu.tokenizers.tokenizer_char import TokenizerChar
    from sacrebleu.tokenizers.tokenizer_intl import TokenizerV14International
    from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

    kinds: dict[str, Callable[[], Callable[[str], str]]] = {
        "13a": Tokenizer13a,
        "intl": TokenizerV14International,
        "zh": TokenizerZh,
        "char": TokenizerChar,
    }
    return kinds[name]()
