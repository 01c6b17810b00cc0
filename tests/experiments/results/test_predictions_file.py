"""predictions.jsonl read back: one line an example, whatever is in its texts."""

import json

import pytest

from bilevel.errors import UserError
from experiments.results import predictions_file

RESULT = {"kind": "text", "labels": None}


def written(folder, **other):
    line = {"test": "test", "prediction": "a", "source": "b", "target": "c", **other}
    path = folder / predictions_file.FILE
    path.write_text(json.dumps(line, ensure_ascii=False) + "\n", encoding="utf-8")
    return path, line


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85"])
def test_unicodes_line_ends_within_a_text_end_no_line(tmp_path, mark):
    path, line = written(tmp_path, source=f"one{mark}two")
    assert list(predictions_file.lines(path, RESULT)) == [line]


def test_a_diverged_loss_is_no_damage(tmp_path):
    path, _ = written(tmp_path, loss=float("nan"))
    (line,) = predictions_file.lines(path, RESULT)
    assert line["loss"] != line["loss"]


def test_a_damaged_line_is_named(tmp_path):
    path, _ = written(tmp_path, prediction=3)
    with pytest.raises(UserError, match=r"line 1.*prediction"):
        list(predictions_file.lines(path, RESULT))


def test_tags_without_their_words_are_not_damaged(tmp_path):
    """Rows of tokens from Python may come without words."""
    result = {"kind": "tags", "labels": ["O", "B-A"]}
    line = {"test": "test", "index": 0, "words": [], "tags": ["O", "B-A"], "prediction": ["O", "O"]}
    path = tmp_path / predictions_file.FILE
    path.write_text(json.dumps(line) + "\n")
    assert list(predictions_file.lines(path, result)) == [line]
    path.write_text(json.dumps({**line, "words": ["one"]}) + "\n")
    with pytest.raises(UserError, match="as many tags as words"):
        list(predictions_file.lines(path, result))
