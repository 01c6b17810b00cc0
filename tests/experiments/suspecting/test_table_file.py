"""Answers as cells of suspects.csv, in the user's own words."""

import json
from pathlib import Path

import numpy as np
import pytest

from bilevel import UserError
from experiments.answers import CHOICES, CLASSES, LABELS, NUMBER, SPANS, TAGS, Answers
from experiments.suspecting.table_file import NAMES, PREDICTED, refuse_others, shown

WORDS = ("not good", "so  good, really", "10")


def test_classes_and_choices_have_their_names() -> None:
    assert shown(Answers(CLASSES, 3, WORDS), 1) == "so  good, really"
    assert shown(Answers(CHOICES, 3, WORDS), 2) == "10"


@pytest.mark.parametrize("labels", [(), (0,), (0, 2)])
def test_several_labels_are_a_list_of_their_names(labels: tuple[int, ...]) -> None:
    """Names may have spaces, so that nothing else would tell them apart."""
    cell = shown(Answers(LABELS, 3, WORDS), labels)
    assert json.loads(cell) == [WORDS[number] for number in labels]


def test_other_answers() -> None:
    assert json.loads(shown(Answers(SPANS, 2), ("the end", "end"))) == ["the end", "end"]
    assert shown(Answers(SPANS, 2), ("the end",)) == "the end"
    assert shown(Answers(TAGS, 2, ("O", "B-PER")), ("O", "B-PER")) == "O B-PER"
    assert shown(Answers(NUMBER, 1), 0.25) == "0.25"
    assert shown(Answers(NUMBER, 1), None) == ""
    for number in (1234567.25, 0.1234567890123, 4.0):  # as in the data
        assert float(shown(Answers(NUMBER, 1), number)) == number
    single = float(np.float32(3.8))  # as the hub's STS-B has it
    assert [shown(Answers(NUMBER, 1), x) for x in (single, 4.0, 1e300)] == ["3.8", "4", "1e+300"]
    assert shown(Answers(NUMBER, 1), 2 / 3, PREDICTED) == "0.666667"


@pytest.mark.parametrize("last", ["confident,trusted", "true,weight,small_loss"])
def test_a_table_of_before_is_replaced(last: str, tmp_path: Path) -> None:
    refuse_others(tmp_path / "nowhere")
    refuse_others(tmp_path)
    (tmp_path / "suspects.csv").write_text(",".join(NAMES) + f",{last}\n1,2\n")
    refuse_others(tmp_path)


@pytest.mark.parametrize(
    "header", ["checked," + ",".join(NAMES), ",".join(NAMES) + ",mine", "", "a"]
)
def test_one_that_somebody_worked_on_is_not(header: str, tmp_path: Path) -> None:
    (tmp_path / "suspects.csv").write_text(f"{header}\n")
    with pytest.raises(UserError, match=r"suspects\.csv has other columns.*out=DIR"):
        refuse_others(tmp_path)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(UserError, match=r"out=.*folder"):
        refuse_others(tmp_path / "x")
