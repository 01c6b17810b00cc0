"""A tokenizer of whole words, for the models that tests make."""

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def word_tokenizer(
    words: Sequence[str], length: int, around: Any = None, **special: str | None
) -> PreTrainedTokenizerFast:
    """One word, one token: its place in ``words``, which hold the special ones too.

    ``around`` is the post-processor, which puts special tokens around a text; None for none.
    """
    vocabulary = {word: i for i, word in enumerate(words)}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token=special["unk_token"]))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if around is not None:
        raw.post_processor = around
    return PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=length, **special)
