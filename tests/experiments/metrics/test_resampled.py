"""Scores on draws against the libraries that score the examples drawn; intervals by simulation."""

import numpy as np
import pytest
from scipy import stats

from experiments.metrics import labels, resampled
from experiments.metrics.tags import TAG_METRICS
from experiments.metrics.text import TEXT_METRICS
from experiments.metrics.text.drawn import drawn_text

RNG = np.random.default_rng(0)
SIZE = 80


def agrees(score, whole, draws=10):
    """``whole`` scores the examples with the given numbers; ``score`` counts them."""
    assert score.value == pytest.approx(whole(np.arange(SIZE)), abs=1e-9)
    for _ in range(draws):
        chosen = RNG.integers(0, SIZE, SIZE)
        counts = np.bincount(chosen, minlength=SIZE)[None].astype(float)
        assert score.score(counts)[0] == pytest.approx(whole(chosen), abs=1e-9)


@pytest.mark.parametrize("classes", [2, 3, 40])
@pytest.mark.parametrize("name", ["accuracy", "f1", "macro_f1", "matthews"])
def test_scores_of_classes(name, classes):
    if name == "f1" and classes > 2:
        pytest.skip("F1 is of two classes")
    true = RNG.integers(0, classes, SIZE)
    found = np.where(RNG.random(SIZE) < 0.6, true, RNG.integers(0, classes, SIZE))
    score = {"f1": "binary_f1"}.get(name, name)
    ours = getattr(resampled, score)(found, true)
    agrees(ours, lambda i: labels.METRICS[name](found[i], true[i]))
    if name != "accuracy":
        constant = np.zeros(SIZE, dtype=int)
        agrees(
            getattr(resampled, score)(constant, true),
            lambda i: labels.METRICS[name](constant[i], true[i]),
        )


@pytest.mark.parametrize("name", ["pearson", "spearman"])
@pytest.mark.parametrize("digits", [0, 5], ids=["ties", "no ties"])
def test_correlations(name, digits):
    true = RNG.normal(3, 1, SIZE).round(digits)
    found = (true + RNG.normal(0, 1, SIZE)).round(digits)
    agrees(getattr(resampled, name)(found, true), lambda i: labels.METRICS[name](found[i], true[i]))
    constant = np.full(SIZE, 0.3)
    assert getattr(resampled, name)(constant, true).value == 0


@pytest.mark.parametrize("name", ["micro_f1", "macro_f1", "exact_match"])
def test_scores_of_sets_of_labels(name):
    true = RNG.random((SIZE, 4)) < [0.5, 0.3, 0.2, 0.02]
    found = true ^ (RNG.random((SIZE, 4)) < 0.2)
    if name == "exact_match":
        ours = resampled.accuracy(found, true)
    else:
        ours = resampled.label_sets(found, true, name.removesuffix("_f1"))
    agrees(ours, lambda i: labels.LABEL_SET_METRICS[name](found[i], true[i]))


@pytest.mark.parametrize("name", ["f1", "precision", "recall"])
def test_scores_of_entities(name):
    from seqeval.metrics.sequence_labeling import get_entities

    names = ["O", "O", "B-a", "I-a", "B-b", "I-b"]
    true = [RNG.choice(names, RNG.integers(1, 9)).tolist() for _ in range(SIZE)]
    found = [[t if RNG.random() < 0.7 else RNG.choice(names) for t in row] for row in true]
    sets = [(set(get_entities(f)), set(get_entities(t))) for f, t in zip(found, true, strict=True)]
    counts = np.array([(len(f & t), len(f), len(t)) for f, t in sets])
    agrees(
        resampled.of_tags(counts, name),
        lambda chosen: TAG_METRICS[name]([true[i] for i in chosen], [found[i] for i in chosen]),
        draws=3,
    )


@pytest.mark.parametrize("tokens", ["13a", "intl"])
@pytest.mark.parametrize("name", ["bleu", "ter", "rouge1", "rougeL", "rougeLsum", "rouge_l_coco"])
def test_scores_of_text(name, tokens):
    words = ["a", "the", "Cat", "sat.", "on", "mats", ",", "and", "dogs", "ran"]
    references = [
        [" ".join(RNG.choice(words, RNG.integers(1, 12))) for _ in range(RNG.integers(1, 4))]
        for _ in range(SIZE)
    ]
    texts = [" ".join(w for w in r[0].split() if RNG.random() < 0.8) for r in references]
    texts[3] = ""
    agrees(
        drawn_text(name, texts, references, tokens),
        lambda chosen: TEXT_METRICS[name].function(
            [texts[i] for i in chosen], [references[i] for i in chosen], tokens
        ),
        draws=2,
    )


def test_a_metric_that_is_not_taken_apart_has_none():
    assert drawn_text("nist", ["a b"] * 3, [["a b"]] * 3) is None


def test_an_interval_is_that_of_scipys_bootstrap():
    values = RNG.exponential(1, 200)
    ours = resampled.mean(values)
    low, high = resampled.interval(ours, resampled.draws_of([ours], 5000)[:, 0])
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    # an end of 5,000 draws has a standard error of 0.03 standard deviations
    assert (low, high) == pytest.approx(tuple(theirs), abs=0.15 * values.std() / 200**0.5)


def test_all_right_is_not_certain():
    ours = resampled.accuracy(np.ones(50), np.ones(50))
    low, high = resampled.interval(ours, resampled.draws_of([ours])[:, 0])
    exact = stats.binomtest(50, 50).proportion_ci(0.95)
    assert (low, high) == pytest.approx((exact.low, exact.high), abs=1e-12)
    none = resampled.accuracy(np.zeros(50), np.ones(50))
    assert resampled.interval(none, np.zeros(10)) == pytest.approx((0, 1 - exact.low), abs=1e-12)


def test_an_interval_holds_the_true_score_as_often_as_it_says():
    held, trials = 0, 300
    for _ in range(trials):
        ours = resampled.mean(RNG.random(150) < 0.8, share=True)
        low, high = resampled.interval(ours, resampled.draws_of([ours], 400)[:, 0])
        held += low <= 0.8 <= high
    assert 0.90 < held / trials < 0.985


def test_draws_are_the_same_for_all_scores_and_every_time(monkeypatch):
    values = RNG.normal(0, 1, 30)
    both = resampled.draws_of([resampled.mean(values), resampled.mean(values + 1)], 20)
    assert both[:, 1] - both[:, 0] == pytest.approx(np.ones(20), abs=1e-12)
    monkeypatch.setattr(resampled, "CELLS", 70)  # two draws at a time
    again = resampled.draws_of([resampled.mean(values)], 20)[:, 0]
    assert again == pytest.approx(both[:, 0], abs=1e-12)
