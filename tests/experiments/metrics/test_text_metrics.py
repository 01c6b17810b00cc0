"""Values worked out on paper, what several references mean, and wrong input."""

import math
import random
import shutil

import pytest

from bilevel.errors import UserError
from experiments.metrics.text import TEXT_METRICS, score_text
from experiments.metrics.text.coco import words
from experiments.metrics.text.nist import nist_of_tokens

WITHOUT_JAVA = [name for name, metric in TEXT_METRICS.items() if "java" not in metric.needs]
BEST = {"bleu": 100, "rouge_l_coco": 100, "cider": 10, "ter": 0}
BEST |= dict.fromkeys(("rouge1", "rouge2", "rougeL", "rougeLsum"), 100)


def value(name, hypotheses, references):
    return TEXT_METRICS[name].function(hypotheses, references)


def corpus(examples=12, seed=0):
    """Texts of a few words out of thirty, with one to four references each."""
    rng = random.Random(seed)
    vocabulary = [a + b for a in "bdfklm" for b in ("ak", "en", "ip", "od", "ul")]

    def text():
        return " ".join(rng.choices(vocabulary, k=rng.randint(6, 12)))

    references = [[text() for _ in range(rng.randint(1, 4))] for _ in range(examples)]
    hypotheses = []
    for texts in references:
        kept = [w for w in rng.choice(texts).split() if rng.random() < 0.8]
        hypotheses.append(" ".join([*kept, rng.choice(vocabulary)]))
    return hypotheses, references


CLOSE = {"abs": 1e-9}


def test_bleu():
    # 5 of 6 words, 3 of 5 pairs, 2 of 4 triples, 1 of 3 quadruples
    bleu = value("bleu", ["The cat sat on a mat"], [["the cat sat on the mat"]])
    assert bleu == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25, **CLOSE)
    # every n-gram of "a ... f" but "b c d e" is in one reference or the other
    bleu = value("bleu", ["a b c d e f"], [["a b c d x y", "z z c d e f"]])
    assert bleu == pytest.approx(100 * (2 / 3) ** 0.25, **CLOSE)
    # all n-grams right; 8 words where the closest references have 6 + 2 + 2
    hypotheses = ["the cat sat on the mat", "", "a dog"]
    references = [["the cat sat on the mat", "a cat is here"], ["the dog"], ["a dog"]]
    bleu = value("bleu", hypotheses, references)
    assert bleu == pytest.approx(100 * math.exp(1 - 10 / 8), **CLOSE)


def test_nist():
    # every word is one of six, a following word is certain; two thirds of the length count half
    assert value("nist", ["a b c d e f"], [["a b c d e f"]]) == pytest.approx(math.log2(6), **CLOSE)
    assert value("nist", ["a b c d"], [["a b c d e f"]]) == pytest.approx(math.log2(6) / 2, **CLOSE)
    # references of 4 and 8 words: 6 on average
    counts = {"a": 2, "b": 2, "c": 2, "d": 2}  # of 12 words; after the first one all is certain
    information = sum(math.log2(12 / count) for count in counts.values()) / 4
    nist = value("nist", ["a b c d"], [["a b c d", "a b c d e f g h"]])
    assert nist == pytest.approx(information / 2, **CLOSE)


def test_nist_is_that_of_the_official_script():
    # texts of nltk's documentation; mteval-v13a.pl's numbers from nltk pull request 3901
    references = [
        "It is a guide to action that ensures that the military will forever heed Party commands",
        "It is the guiding principle which guarantees the military forces always being under the "
        "command of the Party",
        "It is the practical guide for the army always to heed the directions of the party",
    ]
    hypotheses = {
        "It is a guide to action which ensures that the military always obeys the commands of the "
        "party": 5.0379,
        "It is to insure the troops forever hearing the activity guidebook that party "
        "direct": 2.1139,
    }
    for hypothesis, expected in hypotheses.items():
        nist = nist_of_tokens([hypothesis.split()], [[text.split() for text in references]])
        assert nist == pytest.approx(expected, abs=5e-5)


def test_ter():
    assert value("ter", ["c d a b"], [["a b c d"]]) == pytest.approx(100 / 4, **CLOSE)  # a shift
    assert value("ter", ["a b"], [["a b c d"]]) == pytest.approx(200 / 4, **CLOSE)
    # one edit to the nearer reference, 4.5 words in a reference on average
    assert value("ter", ["a b c"], [["a b c d", "a b x y z"]]) == pytest.approx(100 / 4.5, **CLOSE)
    # the full stop is a word
    assert value("ter", ["In Italy."], [["in Italy"]]) == pytest.approx(100 / 2, **CLOSE)


def test_rouge_l_of_coco():
    # precision 2/3 and recall 1 of the first reference, 1/3 and 1/3 of the second
    found = value("rouge_l_coco", ["the black cat"], [["The cat.", "a black dog"]])
    assert found == pytest.approx(100 * 2.44 * (2 / 3) / (1 + 1.44 * 2 / 3), **CLOSE)
    # its oddity: precision of one reference and recall of another make a perfect score
    assert value("rouge_l_coco", ["a b c d"], [["a b c d e f g h", "a"]]) == pytest.approx(100)


def test_cider():
    # cosine 1 for words and for pairs, none longer: 10 (1 + 1 + 0 + 0) / 4
    assert value("cider", ["a b", "c d"], [["A b."], ["c d"]]) == pytest.approx(5, **CLOSE)
    # nothing in common with the second reference
    assert value("cider", ["a b", "c d"], [["a b", "x y"], ["c d"]]) == pytest.approx(3.75, **CLOSE)


def test_rouge_of_summaries():
    hypotheses, references = ["The cats sat."], [["the cat was sat", "something else"]]
    expected = {"rouge1": 6 / 7, "rouge2": 2 / 5, "rougeL": 6 / 7, "rougeLsum": 6 / 7}
    for name, share in expected.items():
        assert value(name, hypotheses, references) == pytest.approx(100 * share, **CLOSE), name
    # the order of sentences counts for L, not for Lsum
    assert value("rougeL", ["m n. k l."], [["k l. m n."]]) == pytest.approx(50, **CLOSE)
    assert value("rougeLsum", ["m n. k l."], [["k l. m n."]]) == pytest.approx(100, **CLOSE)


def test_tokens_of_coco():
    # as Stanford's tokeniser and the MS-COCO script write it
    text = "It's a £20-25 family-friendly (cheap) pub. Isn't it?"
    assert words(text) == "it 's a # 20-25 family-friendly ( cheap ) pub is n't it"


@pytest.mark.parametrize("name", WITHOUT_JAVA)
def test_the_same_text_is_best_and_an_empty_one_is_bad(name):
    hypotheses, references = corpus()
    metric = TEXT_METRICS[name]
    sign = 1 if metric.higher_is_better else -1
    perfect = metric.function([texts[0] for texts in references], [t[:1] for t in references])
    some = metric.function(hypotheses, references)
    nothing = metric.function([""] * len(references), [texts[:1] for texts in references])
    if name in BEST:
        assert perfect == pytest.approx(BEST[name], abs=1e-9)
    assert sign * perfect > sign * some > sign * nothing
    assert nothing == pytest.approx(100 if name == "ter" else 0, abs=1e-9)


@pytest.mark.parametrize("name", WITHOUT_JAVA)
def test_no_order_matters(name):
    hypotheses, references = corpus()
    score = value(name, hypotheses, references)
    order = random.Random(1).sample(range(len(hypotheses)), len(hypotheses))
    shuffled = value(name, [hypotheses[i] for i in order], [references[i] for i in order])
    assert shuffled == pytest.approx(score, rel=1e-12)
    turned = value(name, hypotheses, [texts[::-1] for texts in references])
    assert turned == pytest.approx(score, rel=1e-12)


def test_several_at_once(monkeypatch, caplog):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    scores, settings = score_text(["bleu", "meteor", "ter"], ["a b c d"], [["a b c d"]])
    assert scores == {"bleu": pytest.approx(100), "meteor": None, "ter": 0}
    assert settings["bleu"].startswith("sacrebleu 2.")
    (line,) = (record.message for record in caplog.records)
    assert line == settings["meteor"]
    assert "java" in line


def test_settings_say_what_the_library_says():
    from sacrebleu.metrics import BLEU, TER

    for name, scorer in (("bleu", BLEU(lowercase=True)), ("ter", TER(normalized=True))):
        scorer.corpus_score(["a"], [["a"]])
        signature = str(scorer.get_signature()).split("|", 1)[1].rsplit("|version", 1)[0]
        assert f"({signature})" in TEXT_METRICS[name].settings
    assert all("\n" not in metric.settings for metric in TEXT_METRICS.values())


@pytest.mark.parametrize(
    ("names", "hypotheses", "references", "message"),
    [
        (["bleu"], [], [], "no texts"),
        (["bleu"], ["a"], [["a"], ["b"]], "1, .*references.*2"),
        (["bleu"], ["a", "b"], [["a"], []], "example 2 .*no reference"),
        (["bleu"], ["a"], [["a", " "]], "example 1 .*empty"),
        (["bleu"], ["a"], ["a"], "not a list"),
        (["blue"], ["a"], [["a"]], "blue.*'bleu'"),
    ],
)
def test_wrong_input(names, hypotheses, references, message):
    with pytest.raises(UserError, match=message):
        score_text(names, hypotheses, references)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    from importlib import metadata

    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(UserError, match=r"sacrebleu.*\[text\]"):
        score_text(["bleu"], ["a"], [["a"]])
