"""Answers as cells of suspects.csv, in the user's own words."""

import json

import pytest

from experiments.answers import CHOICES, CLASSES, LABELS, NUMBER, SPANS, TAGS, Answers
from experiments.suspecting.table_file import shown

NAMES = ("not good", "so  good, really", "10")


def test_classes_and_choices_have_their_names() -> None:
    assert shown(Answers(CLASSES, 3, NAMES), 1) == "so  good, really"
    assert shown(Answers(CHOICES, 3, NAMES), 2) == "10"


@pytest.mark.parametrize("labels", [(), (0,), (0, 2)])
def test_several_labels_are_a_list_of_their_names(labels: tuple[int, ...]) -> None:
    """Names may have spaces, so that nothing else would tell them apart."""
    cell = shown(Answers(LABELS, 3, NAMES), labels)
    assert json.loads(cell) == [NAMES[number] for number in labels]


def test_other_answers() -> None:
    assert json.loads(shown(Answers(SPANS, 2), ("the end", "end"))) == ["the end", "end"]
    assert shown(Answers(SPANS, 2), ("the end",)) == "the end"
    assert shown(Answers(TAGS, 2, ("O", "B-PER")), ("O", "B-PER")) == "O B-PER"
    assert shown(Answers(NUMBER, 1), 0.25) == "0.25"
    assert shown(Answers(NUMBER, 1), None) == ""
