"""Predictions against guesses and against each other: by formulas, libraries and permutations."""

import math

import numpy as np
import pytest
from sklearn.metrics import log_loss

from experiments.answers import CLASSES, LABELS, NUMBER, TAGS
from experiments.verdicts.chance import association, between, larger_class, losses

NAMES = ["a", "b", "c"]


def classes(labels, said):
    return [{"label": x, "prediction": y} for x, y in zip(labels, said, strict=True)]


def test_right_answers_are_compared_as_mcnemar_does():
    labels = "a" * 100
    first = classes(labels, "a" * 70 + "b" * 30)  # 20 that the second has wrong, 10 the other way
    second = classes(labels, "a" * 50 + "b" * 20 + "a" * 10 + "b" * 20)
    found = between(CLASSES, first, second)
    assert (found.score, found.other) == (0.7, 0.6)
    assert found.z == pytest.approx((20 - 10) / math.sqrt(20 + 10))


def test_the_error_is_that_of_exchanging_the_two_models():
    """Under no difference the sign of each example's difference is a coin."""
    drawn = np.random.default_rng(0)
    first = [{"label": y, "prediction": y + e} for y, e in drawn.normal(size=(80, 2))]
    second = [{"label": r["label"], "prediction": 0.0} for r in first]
    d = np.array([(a["prediction"] - a["label"]) ** 2 - a["label"] ** 2 for a in first])
    found = between(NUMBER, first, second)
    assert found.difference == pytest.approx(d.mean())
    coins = drawn.choice([-1, 1], size=(4000, 80))
    assert found.error == pytest.approx((coins @ d / 80).std(), rel=0.05)


def test_the_larger_class():
    answer, found = larger_class(CLASSES, classes("aab", "aba"))
    assert answer == "a"
    assert (found.score, found.other) == pytest.approx((1 / 3, 2 / 3))
    mean, found = larger_class(NUMBER, [{"label": y, "prediction": 2.0} for y in (0.0, 2.0, 4.0)])
    assert (mean, found.difference, found.z) == ("2", 0, 0)
    rows = [{"tags": ["O", "O", "B-x"], "prediction": ["O", "O", "O"], "words": list("abc")}]
    answer, found = larger_class(TAGS, rows)
    assert (answer, found.score, found.other) == ("O", pytest.approx(2 / 3), pytest.approx(2 / 3))


def test_a_constant_goes_with_nothing():
    assert association(CLASSES, classes("aab", "aaa")) == 0
    assert association(CLASSES, classes("aaa", "abc")) == 0
    assert association(NUMBER, [{"label": y, "prediction": 1.0} for y in (1.0, 2.0)]) == 0
    tags = [{"tags": ["O", "B-x"], "prediction": ["O", "O"]}] * 3
    assert association(TAGS, tags) == 0
    for wrong in range(1, 40):  # whatever rounding leaves
        shares = "a" * wrong + "b" * (40 - wrong)
        assert association(CLASSES, classes(shares, "a" * 40)) == 0
        assert association(CLASSES, classes("b" * 40, shares)) == 0
        even = [{"label": 0.1 * i, "prediction": 0.1 * wrong} for i in range(7)]
        assert association(NUMBER, even) == 0
    sets = [{"label": s, "prediction": ["a"]} for s in (["a"], ["a", "b"], [])]
    assert association(LABELS, sets) == 0


def shuffled(kind, drawn):
    """Answers drawn without looking at the right ones."""
    if kind == CLASSES:
        return classes(drawn.choice(NAMES, 150, p=[0.7, 0.2, 0.1]), drawn.choice(NAMES, 150))
    if kind == NUMBER:
        return [{"label": a, "prediction": b} for a, b in drawn.normal(size=(100, 2))]
    if kind == LABELS:
        few = drawn.random((100, 2, 3)) < [0.1, 0.5, 0.9]
        return [
            {key: [n for n, x in zip(NAMES, row, strict=True) if x] for key, row in pair}
            for pair in (zip(("label", "prediction"), rows, strict=True) for rows in few)
        ]
    sizes = drawn.integers(1, 9, 60)
    return [
        {"tags": list(drawn.choice(NAMES, n, p=[0.8, 0.1, 0.1])), "prediction": said}
        for n, said in ((n, list(drawn.choice(NAMES, n))) for n in sizes)
    ]


@pytest.mark.parametrize("kind", [CLASSES, NUMBER, LABELS, TAGS])
def test_noise_is_called_an_association_as_often_as_it_should(kind):
    drawn = np.random.default_rng(1)
    z = np.array([association(kind, shuffled(kind, drawn)) for _ in range(150)])
    assert np.mean(np.abs(z) > 1.96) < 0.1  # 0.05, and 2.8 standard errors of 150 draws
    assert z.std() == pytest.approx(1, abs=0.17)


@pytest.mark.parametrize("kind", [CLASSES, NUMBER, LABELS, TAGS])
def test_half_right_answers_go_with_the_right_ones(kind):
    drawn = np.random.default_rng(2)
    right = "tags" if kind == TAGS else "label"
    rows = shuffled(kind, drawn)
    half = [{**r, "prediction": r[right]} if i % 2 else r for i, r in enumerate(rows)]
    assert association(kind, half) > 2.5


def test_losses():
    drawn = np.random.default_rng(0)
    labels, shares = drawn.choice(NAMES, 50), drawn.dirichlet([1, 1, 1], 50)
    rows = [
        {"label": y, "prediction": "a", "probabilities": p.tolist()}
        for y, p in zip(labels, shares, strict=True)
    ]
    found = losses(CLASSES, rows, NAMES)
    assert found.score == pytest.approx(log_loss(labels, shares, labels=NAMES))
    constant = np.tile([np.mean(labels == n) for n in NAMES], (50, 1))
    assert found.other == pytest.approx(log_loss(labels, constant, labels=NAMES))
    each = [-math.log(p[NAMES.index(y)]) for y, p in zip(labels, shares, strict=True)]
    base = [-math.log(constant[0][NAMES.index(y)]) for y in labels]
    error = np.std(np.subtract(each, base), ddof=1) / math.sqrt(50)
    assert found.error == pytest.approx(error)
    assert losses(TAGS, rows) is None


@pytest.mark.parametrize("count", [2, 4])
def test_where_all_is_right_nothing_is_by_chance(count):
    """All examples say the same then, and there is no spread to go by."""
    labels = ["abcd"[i % count] for i in range(40)]
    assert association(CLASSES, classes(labels, labels)) == math.inf
    wrong = [labels[-1], *labels[:-1]]
    assert association(CLASSES, classes(labels, wrong)) <= 0
    spans = [{"answers": [f"text {i}"], "prediction": f"text {i}"} for i in range(9)]
    assert association("spans", spans) == math.inf
