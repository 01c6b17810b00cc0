"""Scores of text written out from their definitions, by hand on a few words."""

import math

import pytest

from benchmarks.human_references import cider, document, grams, lcs, nist, rouge, rouge_l_coco

HYPOTHESES = [["a", "cat", "sat", "down", "here"], ["the", "dog", "ran", "off", "there", "now"]]
REFERENCES = [
    [["a", "cat", "sat", "down", "there"], ["the", "cat", "sat", "here"]],
    [["the", "dog", "ran", "off", "now"], ["a", "dog", "ran", "off", "there", "now"]],
]


def test_grams_and_the_longest_common_subsequence() -> None:
    assert grams(list("abab"), 2) == {("a", "b"): 2, ("b", "a"): 1}
    assert lcs(list("abcbdab"), list("bdcaba")) == 4
    assert lcs(list("abc"), []) == 0


def test_what_is_said_word_by_word_has_the_best_score() -> None:
    same = [texts[0] for texts in REFERENCES]
    for n in (1, 2, None):
        assert rouge(n, same, REFERENCES) == pytest.approx(100)
    assert rouge_l_coco(same, REFERENCES) == pytest.approx(100)
    assert cider([["x", "y"], ["z"]], REFERENCES) == 0


def test_rouge_takes_the_best_reference() -> None:
    """4 of 5 words, and 5 of 6 against 5 of 5: F1 of 0.8 and 10/11."""
    assert rouge(1, HYPOTHESES, REFERENCES) == pytest.approx(100 * (0.8 + 10 / 11) / 2, abs=1e-9)


def test_nist_is_the_information_of_shared_words() -> None:
    """The other way round each word tells log2 of how many there are, and no pair is shared."""
    five, ten = list("abcde"), list("abcdefghij")
    assert nist([five], [[five[::-1]]]) == pytest.approx(math.log2(5))
    assert nist([list("vwxyz")], [[five]]) == 0
    short = 0.5 ** ((math.log(0.5) / math.log(1.5)) ** 2)  # half as long as the reference
    assert nist([five], [[ten[::-1]]]) == pytest.approx(math.log2(10) * short)


def test_texts_of_meteor_are_numbered_lines() -> None:
    assert document("h", enumerate(["a", "b"])) == (
        '<doc docid="all" sysid="h">\n<seg id="0">a</seg>\n<seg id="1">b</seg>\n</doc>\n'
    )
