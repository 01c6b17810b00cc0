"""Exact match and F1 of answers in a text, by hand; torchmetrics 1.9 agreed on 4,000 drawn ones."""

import pytest

from experiments.metrics import spans


@pytest.mark.parametrize(
    ("said", "right", "exact", "f1"),
    [
        ("Denver Broncos", ["the Denver Broncos!"], 1, 1),
        ("Denver", ["Denver Broncos"], 0, 2 * 1 * 0.5 / 1.5),
        ("the a an", ["Denver"], 0, 0),
        ("in in the north", ["in the far north"], 0, 2 * (2 / 3) * (2 / 3) / (4 / 3)),
        ("Bruno Mars", ["Beyonce", "bruno-mars"], 0, 0),  # a hyphen goes, no space comes
        ("10,000", ["10000"], 1, 1),
        ("Café", ["café"], 1, 1),
        ("", [], 1, 1),
        ("Denver", [], 0, 0),
        ("", ["Denver"], 0, 0),
        ("a", ["the", "Denver"], 0, 0),  # an answer of no words is none beside one with words
    ],
)
def test_by_hand(said: str, right: list[str], exact: float, f1: float) -> None:
    assert spans.exact_match(said, right) == exact
    assert spans.f1(said, right) == pytest.approx(f1, abs=1e-12)


def test_the_mean_over_questions() -> None:
    assert spans.mean("f1", ["Denver", "x"], [["Denver"], ["y"]]) == 0.5
    assert spans.mean("f1", [], []) is None
    assert set(spans.settings()) == set(spans.SPAN_METRICS)
