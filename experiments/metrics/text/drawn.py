"""Compute scores of text on examples that are drawn again, out of each example's counts.

BLEU and TER are functions of sums over the examples, ROUGE a mean over them. The others (NIST,
METEOR, CIDEr, chrF) are not taken apart by what their libraries offer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.metrics import resampled
from experiments.metrics.resampled import Resampled
from experiments.metrics.text.coco import rouge_l_coco
from experiments.metrics.text.matching import scorer_of
from experiments.metrics.text.metric import Hypotheses, References
from experiments.metrics.text.rouge import rouge
from experiments.metrics.text.tokenization import ENGLISH

__all__ = ["drawn_text"]

ORDER = 4  # of BLEU's n-grams
MEANS: dict[str, Any] = {
    "rouge_l_coco": rouge_l_coco,
    **{name: rouge(name) for name in ("rouge1", "rouge2", "rougeL", "rougeLsum")},
}


def drawn_text(
    metric: str, hypotheses: Hypotheses, references: References, tokenization: str = ENGLISH
) -> Resampled | None:
    """A metric of N texts on draws of them; None for one that is not taken apart.

    Args:
        metric: a key of `TEXT_METRICS`.
        hypotheses: N texts.
        references: for each its references, one or more.
        tokenization: how words are cut, by name.
    """
    if metric in MEANS:
        each = [
            MEANS[metric]([text], [texts], tokenization)
            for text, texts in zip(hypotheses, references, strict=True)
        ]
        return resampled.mean(each)
    if metric == "bleu":
        return _bleu(hypotheses, references, tokenization)
    if metric == "ter":
        scorer, hypotheses, references = scorer_of("ter", hypotheses, references, tokenization)
        found = [scorer.sentence_score(*pair) for pair in zip(hypotheses, references, strict=True)]
        return resampled.ratio(
            [100.0 * one.num_edits for one in found], [one.ref_length for one in found]
        )
    return None


def _bleu(hypotheses: Hypotheses, references: References, tokenization: str) -> Resampled:
    scorer, hypotheses, references = scorer_of("bleu", hypotheses, references, tokenization)
    scorer.effective_order = True  # of a sentence's score, which is not read: else it warns
    found = [scorer.sentence_score(*pair) for pair in zip(hypotheses, references, strict=True)]
    table = np.array([[*f.counts, *f.totals, f.sys_len, f.ref_len] for f in found], dtype=float)

    def score(counts: np.ndarray) -> np.ndarray:
        sums = np.rint(counts @ table).astype(int).tolist()
        return np.array(
            [
                scorer.compute_bleu(
                    *(row[:ORDER], row[ORDER : 2 * ORDER], row[-2], row[-1]), smooth_method="exp"
                ).score
                for row in sums
            ]
        )

    return Resampled(score, len(table))
