"""The metrics beside second implementations: another package's, or the definition written out."""

import math
import random
from collections import Counter

import pytest
from nltk.metrics.distance import edit_distance
from nltk.translate.bleu_score import corpus_bleu
from nltk.translate.nist_score import corpus_nist

from experiments.metrics.text import TEXT_METRICS
from experiments.metrics.text.nist import nist_of_tokens

RNG = random.Random(3)
VOCABULARY = [a + b for a in "bdfklm" for b in ("ak", "en", "ip", "od", "ul")]


def some_text():
    return RNG.choices(VOCABULARY, k=RNG.randint(8, 14))


REFERENCES = [[some_text() for _ in range(RNG.randint(1, 4))] for _ in range(40)]
HYPOTHESES = [
    [w if RNG.random() < 0.8 else RNG.choice(VOCABULARY) for w in RNG.choice(texts)][
        : RNG.randint(7, 14)
    ]
    for texts in REFERENCES
]


def value(name, references=REFERENCES, hypotheses=HYPOTHESES):
    joined = [[" ".join(text) for text in texts] for texts in references]
    return TEXT_METRICS[name].function([" ".join(text) for text in hypotheses], joined)


def test_bleu_is_nltks():
    assert value("bleu") == pytest.approx(100 * corpus_bleu(REFERENCES, HYPOTHESES), rel=1e-9)
    assert 10 < value("bleu") < 90


def test_nist_is_nltks_for_one_reference():
    one = [texts[:1] for texts in REFERENCES]
    assert value("nist", one) == pytest.approx(corpus_nist(one, HYPOTHESES), rel=1e-9)


def test_nist_of_several_references_from_its_definition():
    counts, information, total = Counter(), Counter(), Counter()
    for texts in REFERENCES:
        for text in texts:
            counts[()] += len(text)
            counts.update(g for n in range(1, 6) for g in grams(text, n))
    for hypothesis, texts in zip(HYPOTHESES, REFERENCES, strict=True):
        for n in range(1, 6):
            total[n] += len(grams(hypothesis, n))
            for gram in set(grams(hypothesis, n)):
                clipped = min(
                    grams(hypothesis, n).count(gram), max(grams(t, n).count(gram) for t in texts)
                )
                if clipped:
                    information[n] += clipped * math.log2(counts[gram[:-1]] / counts[gram])
    length = sum(map(len, HYPOTHESES)) / sum(sum(map(len, t)) / len(t) for t in REFERENCES)
    beta = math.log(0.5) / math.log(2 / 3) ** 2
    expected = sum(information[n] / total[n] for n in range(1, 6))
    expected *= math.exp(beta * min(math.log(length), 0) ** 2)
    assert length < 1  # so that the penalty matters
    assert nist_of_tokens(HYPOTHESES, REFERENCES) == pytest.approx(expected, rel=1e-12)
    assert expected > 1.1 * corpus_nist(REFERENCES, HYPOTHESES)  # why nltk's is not used


def grams(text, n):
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]


def test_ter_is_the_edit_distance_where_no_shift_helps():
    # words of one text are all different, so a word never matches at another place
    references = [[RNG.sample(VOCABULARY, 10)] for _ in range(20)]
    hypotheses = [[w if RNG.random() < 0.7 else "new" for w in t][:9] for (t,) in references]
    pairs = zip(hypotheses, references, strict=True)
    edits = sum(edit_distance(hypothesis, text) for hypothesis, (text,) in pairs)
    assert value("ter", references, hypotheses) == pytest.approx(100 * edits / 200, rel=1e-12)


def lcs(a, b):
    row = [0] * (len(b) + 1)
    for x in a:
        above = row
        row = [0]
        for j, y in enumerate(b):
            row.append(above[j] + 1 if x == y else max(above[j + 1], row[j]))
    return row[-1]


def test_rouge_l_of_coco_from_its_definition():
    scores = []
    for hypothesis, texts in zip(HYPOTHESES, REFERENCES, strict=True):
        precision = max(lcs(hypothesis, text) / len(hypothesis) for text in texts)
        recall = max(lcs(hypothesis, text) / len(text) for text in texts)
        scores.append((1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision))
    assert value("rouge_l_coco") == pytest.approx(100 * sum(scores) / len(scores), rel=1e-12)


def test_rouge_from_its_definition():
    def f1(common, a, b):
        return 2 * common / (a + b)

    def of_grams(a, b, n):
        a, b = Counter(grams(a, n)), Counter(grams(b, n))
        return f1((a & b).total(), a.total(), b.total())

    ways = {
        "rouge1": lambda a, b: of_grams(a, b, 1),
        "rouge2": lambda a, b: of_grams(a, b, 2),
        "rougeL": lambda a, b: f1(lcs(a, b), len(a), len(b)),
    }
    for name, way in ways.items():
        pairs = zip(HYPOTHESES, REFERENCES, strict=True)
        scores = [max(way(hypothesis, text) for text in texts) for hypothesis, texts in pairs]
        expected = 100 * sum(scores) / len(scores)
        # the words are made so that Porter's rules leave them alone
        assert value(name) == pytest.approx(expected, rel=1e-12), name
    assert value("rougeLsum") == pytest.approx(value("rougeL"), rel=1e-12)  # one sentence each


def test_cider_from_its_definition():
    def weights(text, n):
        found = Counter(grams(text, n))
        return {g: c * math.log(len(REFERENCES) / max(1, seen[g])) for g, c in found.items()}

    def norm(vector):
        return math.sqrt(sum(w * w for w in vector.values()))

    seen = Counter()
    for texts in REFERENCES:
        seen.update({g for text in texts for n in range(1, 5) for g in grams(text, n)})
    scores = []
    for hypothesis, texts in zip(HYPOTHESES, REFERENCES, strict=True):
        for text in texts:
            penalty = math.exp(-((len(hypothesis) - len(text)) ** 2) / (2 * 6**2))
            for n in range(1, 5):
                a, b = weights(hypothesis, n), weights(text, n)
                dot = sum(min(w, b[g]) * b[g] for g, w in a.items() if g in b)
                scores.append(10 / 4 / len(texts) * penalty * dot / (norm(a) * norm(b)))
    assert value("cider") == pytest.approx(sum(scores) / len(REFERENCES), rel=1e-9)
