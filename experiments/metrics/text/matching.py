"""Compute BLEU, TER and chrF by sacrebleu.

mteval-v13a without ``-c``, which scores E2E, and the WebNLG and DART recipe of LoRA compare text in
lower case, so BLEU and TER do here.
"""

from __future__ import annotations

import unicodedata
from itertools import zip_longest
from typing import Any

from experiments.metrics.text.metric import Hypotheses, References
from experiments.metrics.text.tokenization import ENGLISH, tokens

__all__ = ["bleu", "chrf", "scorer_of", "ter"]


def bleu(hypotheses: Hypotheses, references: References, tokenization: str = ENGLISH) -> float:
    """Corpus BLEU-4 in lower case, 0 to 100 (Papineni et al. 2002; Post 2018)."""
    scorer, texts, right = scorer_of("bleu", hypotheses, references, tokenization)
    return float(scorer.corpus_score(texts, _streams(right)).score)


def ter(hypotheses: Hypotheses, references: References, tokenization: str = ENGLISH) -> float:
    """Translation edit rate in lower case, 0 (equal) to 100 and above (Snover et al. 2006).

    Edits to the nearest reference over the mean length of the references, summed over the corpus.
    """
    scorer, texts, right = scorer_of("ter", hypotheses, references, tokenization)
    return float(scorer.corpus_score(texts, _streams(right)).score)


def scorer_of(
    name: str, hypotheses: Hypotheses, references: References, tokenization: str
) -> tuple[Any, Hypotheses, References]:
    """Sacrebleu's metric for BLEU or TER, and the texts as it is to be given them.

    Args:
        name: bleu or ter.
        hypotheses, references: the texts.
        tokenization: how words are cut, by name.
    """
    from sacrebleu.metrics import BLEU, TER

    if name == "bleu":
        if tokenization != ENGLISH:  # as tokens() does; 13a is the papers', of texts as they are
            hypotheses = [_composed(text) for text in hypotheses]
            references = [[_composed(text) for text in texts] for texts in references]
        # force: no warning that a text was tokenised before
        return BLEU(lowercase=True, force=True, tokenize=tokenization), hypotheses, references
    if tokenization == ENGLISH:
        # normalised: a full stop is a word of its own; without, "Italy." and "Italy" are an edit
        # apart
        return TER(normalized=True), hypotheses, references
    cut = [_cut(text, tokenization) for text in hypotheses]
    return TER(), cut, [[_cut(text, tokenization) for text in texts] for texts in references]


def chrf(hypotheses: Hypotheses, references: References) -> float:
    """Corpus chrF2 of characters, 0 to 100 (Popovic 2015): it needs no words."""
    from sacrebleu.metrics import CHRF

    return float(CHRF().corpus_score(hypotheses, _streams(references)).score)


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _cut(text: str, tokenization: str) -> str:
    return " ".join(tokens(text, tokenization))


def _streams(references: References) -> list[list[Any]]:
    """Sacrebleu's layout: all first references, all second ones, ...; None stands for none.

    Its documentation allows None, its annotations do not.
    """
    return [list(stream) for stream in zip_longest(*references)]
