"""Compute ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum of summaries, by rouge-score."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

from experiments.metrics.text.metric import Hypotheses, References
from experiments.metrics.text.tokenization import ENGLISH, bare_words

__all__ = ["rouge"]

# rouge-score's own splitting into sentences needs a download (punkt).
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
SENTENCE_END_ELSEWHERE = re.compile(r"(?<=[.!?\u061f\u0964])\s+|(?<=[\u3002\uff01\uff1f])\s*")


def rouge(name: str) -> Callable[..., float]:
    """The metric ``name`` of rouge-score: mean F1 of the best reference, 0 to 100.

    On English words with Porter stems, unless another tokenization is named.
    """

    def score(hypotheses: Hypotheses, references: References, tokenization: str = ENGLISH) -> float:
        from rouge_score.rouge_scorer import RougeScorer

        logging.getLogger("absl").setLevel(logging.WARNING)  # it tells of its tokenizer each time

        scorer = RougeScorer([name], tokenizer=_Words(tokenization))
        ends = SENTENCE_END if tokenization == ENGLISH else SENTENCE_END_ELSEWHERE

        def lines(text: str) -> str:
            """A sentence a line: what Lsum takes for a sentence, and the others for white space."""
            return ends.sub("\n", text.strip())

        found = [
            scorer.score_multi([lines(text) for text in texts], lines(hypothesis))[name].fmeasure
            for hypothesis, texts in zip(hypotheses, references, strict=True)
        ]
        return 100 * sum(found) / len(found)

    return score


class _Words:
    """What rouge-score takes for a tokenizer."""

    def __init__(self, tokenization: str) -> None:
        from rouge_score.tokenizers import DefaultTokenizer

        self._tokenization = tokenization
        self._english: Any = DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        """The words of a text; of one that has none in English, what it has."""
        if self._tokenization == ENGLISH:
            # Its words are of a to z and digits: a text of other characters had none at all.
            return self._english.tokenize(text) or list(bare_words(text, ENGLISH))
        return list(bare_words(text, self._tokenization))
