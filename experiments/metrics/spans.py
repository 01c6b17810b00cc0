r"""Score answers that were found in a text: exact match and F1 over words, as SQuAD does.

Both texts are brought to one form first: lower case, without punctuation (ASCII's), without the
words a, an and the, one space between words. Then, of a question with right answers y and an
answer p, with |p & y| the words in both, counted as often as in the one that has them less often,

    exact match = max over y of [p = y],
    F1 = max over y of 2 P R / (P + R),     P = |p & y| / |p|,     R = |p & y| / |y|,

and the mean over questions (Rajpurkar et al., EMNLP 2016, arXiv 1606.05250, section 6.1). Where
one of the two has no words, as the answer to a question that has none, F1 is 1 if neither has, else
0 (Rajpurkar, Jia, Liang, ACL 2018, arXiv 1806.03822).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["SPAN_METRICS", "exact_match", "f1", "mean", "normalised", "settings"]

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """The form in which answers are compared."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(WITHOUT_PUNCTUATION)).split())


def exact_match(said: str, right: Sequence[str]) -> float:
    """1 if an answer is one of the right ones, else 0.

    Args:
        said: the answer; empty for none.
        right: the right ones; none of a question without an answer.
    """
    return float(any(normalised(said) == one for one in _known(right)))


def f1(said: str, right: Sequence[str]) -> float:
    """The best F1 over words with one of the right answers; arguments as :func:`exact_match`'s."""
    words = normalised(said).split()
    return max(_overlap(words, one.split()) for one in _known(right))


def _known(right: Sequence[str]) -> list[str]:
    """The right answers in their form; one that has no words is no answer where another has."""
    found = [normalised(one) for one in right]
    return [one for one in found if one] or [""]


def _overlap(said: list[str], right: list[str]) -> float:
    if not said or not right:
        return float(said == right)
    both = (Counter(said) & Counter(right)).total()
    return 2 * both / (len(said) + len(right))  # 2 P R / (P + R), which 0 of both is too


# Each is of one question.
SPAN_METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "f1": f1,
    "exact_match": exact_match,
}


def mean(metric: str, said: Sequence[str], right: Sequence[Sequence[str]]) -> float | None:
    """A metric over n questions; None of no question."""
    of_one = SPAN_METRICS[metric]
    each = [of_one(a, b) for a, b in zip(said, right, strict=True)]
    return float(np.mean(each)) if each else None


def settings() -> dict[str, str]:
    """How each metric is computed: metric -> one line."""
    how = (
        "mean over questions of the best over their right answers; lower case, without ASCII "
        "punctuation and the words a, an, the (SQuAD's form)"
    )
    return {"f1": f"of words, {how}", "exact_match": how}
