"""Compute NIST as mteval-v13a defines it for several references (Doddington 2002, equation 3).

No package computes it: ``nltk.translate.nist_score`` keeps, for every order, only the one reference
that matches best, and is far too low as soon as there are several (nltk pull request 3901: 3.3709
where mteval says 5.0379). With one reference each the two agree to rounding, which a test checks.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import reduce

from experiments.metrics.text.metric import Hypotheses, References
from experiments.metrics.text.tokenization import ENGLISH, tokens

__all__ = ["nist", "nist_of_tokens"]

ORDER = 5
BETA = math.log(0.5) / math.log(1.5) ** 2  # a text of 2/3 the references' length scores half


def nist(hypotheses: Hypotheses, references: References, tokenization: str = ENGLISH) -> float:
    """Corpus NIST-5 in lower case, from 0, without an upper bound."""
    return nist_of_tokens(
        [tokens(text.lower(), tokenization) for text in hypotheses],
        [[tokens(text.lower(), tokenization) for text in texts] for texts in references],
    )


def nist_of_tokens(
    hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> float:
    """NIST-5 of texts that are lists of tokens.

    Per order n: the information log2(count of its first n-1 words / its own count, both in all
    references) of every n-gram that hypothesis and any reference share, over the number of n-grams
    in the hypotheses. The sum over n is multiplied by a penalty on the ratio of the hypotheses'
    length to the mean length of the references.
    """
    counts = _counts(text for texts in references for text in texts)
    counts[()] = sum(len(text) for texts in references for text in texts)
    information, total = [0.0] * ORDER, [0] * ORDER
    for hypothesis, texts in zip(hypotheses, references, strict=True):
        # |: a count is clipped at the largest count in a single reference
        allowed = reduce(Counter.__or__, (_counts([text]) for text in texts))
        for ngram, count in (_counts([hypothesis]) & allowed).items():
            information[len(ngram) - 1] += count * math.log2(counts[ngram[:-1]] / counts[ngram])
        for n in range(ORDER):
            total[n] += max(len(hypothesis) - n, 0)
    length = sum(len(text) for text in hypotheses)
    expected = sum(sum(map(len, texts)) / len(texts) for texts in references)
    if length == 0:
        return 0.0
    penalty = math.exp(BETA * math.log(min(length / expected, 1.0)) ** 2)
    return penalty * sum(i / t for i, t in zip(information, total, strict=True) if t)


def _counts(texts: Iterable[Sequence[str]]) -> Counter[tuple[str, ...]]:
    """How often each n-gram, n up to ``ORDER``, occurs in some texts."""
    return Counter(
        tuple(text[i : i + n])
        for text in texts
        for n in range(1, ORDER + 1)
        for i in range(len(text) - n + 1)
    )
