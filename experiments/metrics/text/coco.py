"""Compute ROUGE-L and CIDEr as the E2E and MS-COCO scripts compute them, by pycocoevalcap.

The scripts tokenise by Stanford's Java program. Here a rule does it, the same on every machine: of
the human texts of E2E's test set it gives 99.6% the very same tokens. Each of them against the
others of its input: ROUGE-L 64.38 here and 64.40 there, CIDEr 1.815 and 1.817
(``benchmarks/human_references.py``).
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import Any

from experiments.metrics.text.metric import Hypotheses, References
from experiments.metrics.text.tokenization import ENGLISH, bare_words

__all__ = ["cider", "rouge_l_coco", "words"]

# What the MS-COCO script throws away; brackets stay.
PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
# nltk splits a full stop off the end of a text only, Stanford off every sentence.
FULL_STOP = re.compile(r"(?<=[^.\s])\.(?=\s|$)")


@lru_cache(maxsize=2**16)
def words(text: str, tokenization: str = ENGLISH) -> str:
    """Lower-case tokens without punctuation, joined by single blanks.

    Those of the Penn Treebank for `ENGLISH`, else sacrebleu's.
    """
    if tokenization != ENGLISH:
        return " ".join(bare_words(text, tokenization))
    # Stanford's tokeniser writes every currency sign as one, apart from its number.
    tokens = _tokeniser().tokenize(FULL_STOP.sub(" .", text.lower().replace("£", "#")))
    return " ".join(token for token in tokens if token not in PUNCTUATION)


@cache
def _tokeniser() -> Any:
    from nltk.tokenize import NLTKWordTokenizer

    return NLTKWordTokenizer()


def rouge_l_coco(
    hypotheses: Hypotheses, references: References, tokenization: str = ENGLISH
) -> float:
    """Mean ROUGE-L of MS-COCO, 0 to 100.

    F with beta 1.2 of the largest precision and the largest recall among the references, which need
    not be of the same one.
    """
    from pycocoevalcap.rouge.rouge import Rouge

    return 100 * float(Rouge().compute_score(*_by_example(hypotheses, references, tokenization))[0])


def cider(hypotheses: Hypotheses, references: References, tokenization: str = ENGLISH) -> float:
    """CIDEr-D with n up to 4 and sigma 6, 0 to 10 (Vedantam et al. 2015).

    Words that all examples share weigh nothing, so one example alone scores 0.
    """
    from pycocoevalcap.cider.cider import Cider

    return float(Cider().compute_score(*_by_example(hypotheses, references, tokenization))[0])


def _by_example(
    hypotheses: Hypotheses, references: References, tokenization: str
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """References and hypotheses as pycocoevalcap takes them: number of the example -> texts."""
    return (
        {i: [words(text, tokenization) for text in texts] for i, texts in enumerate(references)},
        {i: [words(text, tokenization)] for i, text in enumerate(hypotheses)},
    )
