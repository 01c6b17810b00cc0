"""The predictions that are most wrong, and their texts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.results import wrongest
from experiments.tasks.examples import Example
from experiments.tasks.kinds.labelled import LabelledData


def test_how_wrong_each_kind_is() -> None:
    said = {"label": "b", "prediction": "a", "probabilities": [0.75, 0.25]}
    assert wrongest.wrongness(said, "classes", ["a", "b"]) == pytest.approx(0.75)
    assert wrongest.wrongness({**said, "label": "a"}, "classes", ["a", "b"]) == 0
    sets = {"label": ["a"], "prediction": [], "probabilities": [0.25, 0.125]}
    assert wrongest.wrongness(sets, "labels", ["a", "b"]) == pytest.approx(0.75 + 0.125)
    assert wrongest.wrongness({"label": 2.0, "prediction": -1.0}, "number", None) == 3.0
    tags = {"prediction": ["O", "B-X", "O"], "tags": ["B-X", "B-X", "B-X"], "words": ["", "", ""]}
    assert wrongest.wrongness(tags, "tags", ["O", "B-X"]) == 2.0
    assert wrongest.wrongness({"prediction": "x", "target": "y"}, "text", None) == 0


def test_the_worst_first_and_no_more_than_asked_for() -> None:
    rows = [{"label": 0.0, "prediction": x} for x in (1.0, 3.0, 0.0, -2.0, 3.0)]
    found = wrongest.largest(rows, "number", None, 3)
    assert found == [rows[1], rows[4], rows[3]]  # of equals the first comes first


def data(texts: list[str], labels: list[int]) -> LabelledData:
    examples = [Example((text,), label) for text, label in zip(texts, labels, strict=True)]
    return LabelledData(
        "t", [], {"test": examples}, "test", ("accuracy",), 32, label_names=["bad", "good"]
    )


def test_texts_are_kept(tmp_path: Path) -> None:
    task = data(["right", "most wrong", "wrong", "ü" * 5000], [1, 1, 0, 0])
    logits = [np.array(x, dtype=float) for x in ([0, 2], [5, 0], [0, 1], [0, 0.5])]
    wrongest.write(task, {"test": logits}, None, tmp_path)
    lines = (tmp_path / wrongest.FILE).read_text(encoding="utf-8").splitlines()
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert [row["index"] for row in rows] == [1, 2, 3]
    assert rows[0]["texts"] == ["most wrong"]
    assert (rows[0]["label"], rows[0]["prediction"]) == ("good", "bad")
    assert len(rows[2]["texts"][0]) == wrongest.LETTERS + 2


def test_nothing_is_written_where_all_is_right(tmp_path: Path) -> None:
    wrongest.write(data(["right"], [1]), {"test": [np.array([0.0, 1.0])]}, None, tmp_path)
    assert not list(tmp_path.iterdir())
