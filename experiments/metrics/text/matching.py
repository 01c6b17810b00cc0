"""Compute BLEU and TER by sacrebleu.

mteval-v13a without ``-c``, which scores E2E, and the WebNLG and DART recipe of LoRA compare text in
lower case, so both do here.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from experiments.metrics.text.metric import Hypotheses, References

__all__ = ["bleu", "ter"]


def bleu(hypotheses: Hypotheses, references: References) -> float:
    """Corpus BLEU-4 in lower case on 13a tokens, 0 to 100 (Papineni et al. 2002; Post 2018)."""
    from sacrebleu.metrics import BLEU

    scorer = BLEU(lowercase=True, force=True)  # force: no warning that a text was tokenised before
    return float(scorer.corpus_score(hypotheses, _streams(references)).score)


def ter(hypotheses: Hypotheses, references: References) -> float:
    """Translation edit rate in lower case, 0 (equal) to 100 and above (Snover et al. 2006).

    Edits to the nearest reference over the mean length of the references, summed over the corpus.
    """
    from sacrebleu.metrics import TER

    # normalised: a full stop is a word of its own; without, "Italy." and "Italy" are an edit apart
    return float(TER(normalized=True).corpus_score(hypotheses, _streams(references)).score)


def _streams(references: References) -> list[list[Any]]:
    """Sacrebleu's layout: all first references, all second ones, ...; None stands for none.

    Its documentation allows None, its annotations do not.
    """
    return [list(stream) for stream in zip_longest(*references)]
