"""Compute ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum of summaries, by rouge-score."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from experiments.metrics.text.metric import Hypotheses, References

__all__ = ["rouge"]

# rouge-score's own splitting into sentences needs a download (punkt).
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def rouge(name: str) -> Callable[[Hypotheses, References], float]:
    """The metric ``name`` of rouge-score: mean F1 of the best reference, Porter stems, 0 to 100."""

    def score(hypotheses: Hypotheses, references: References) -> float:
        from rouge_score.rouge_scorer import RougeScorer

        logging.getLogger("absl").setLevel(logging.WARNING)  # it tells of its tokenizer each time

        scorer = RougeScorer([name], use_stemmer=True)
        found = [
            scorer.score_multi([_lines(text) for text in texts], _lines(hypothesis))[name].fmeasure
            for hypothesis, texts in zip(hypotheses, references, strict=True)
        ]
        return 100 * sum(found) / len(found)

    return score


def _lines(text: str) -> str:
    """A sentence a line: what Lsum takes for a sentence, and the others for white space."""
    return SENTENCE_END.sub("\n", text.strip())
