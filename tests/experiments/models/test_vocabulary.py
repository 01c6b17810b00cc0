"""Token ids that the model has no embedding for: told where model and tokenizer meet."""

from pathlib import Path
from typing import Any

import pytest

from bilevel.errors import UserError
from experiments.answers import CLASSES, Answers
from experiments.models.spec import ModelSpec
from experiments.models.vocabulary import check_rows
from experiments.tasks.examples import Example
from experiments.tasks.kinds.labelled import LabelledData
from tests.experiments import writers

TWO = Answers(CLASSES, 2)


def folder(path: Path, change: Any) -> ModelSpec:
    """A model, and a tokenizer that was changed after it."""
    writers.model("gpt2").save_pretrained(path)
    tokenizer = writers.tokenizer()
    change(tokenizer)
    tokenizer.save_pretrained(path)
    return ModelSpec("hub", pretrained=str(path))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.add_tokens(["newword"]), "'newword' with the id 16"),
        (lambda t: t.add_special_tokens({"pad_token": "[PAD]"}), r"'\[PAD\]' with the id 16"),
        (lambda t: t.add_special_tokens({"cls_token": "[CLS]"}), r"'\[CLS\]' with the id 16"),
    ],
)
def test_a_token_that_was_added(change: Any, named: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"beyond the model's 16 embeddings, e.g. {named}.*resize"):
        folder(tmp_path, change).load(TWO, 0)


def test_a_token_for_nothing_here_is_refused_where_it_is_used(tmp_path: Path) -> None:
    spec = folder(
        tmp_path, lambda t: t.add_special_tokens({"additional_special_tokens": ["<image>"]})
    )
    loaded = spec.load(TWO, 0)
    names = ["a", "b"]
    task = LabelledData("t", [], {}, "none", ("accuracy",), 16, label_names=names)
    loaded.tokenise(task, [Example(("w1 w2",), 0)])
    with pytest.raises(UserError, match=r"example 1 of task t has the token 16 in input_ids"):
        loaded.tokenise(task, [Example(("w1",), 0), Example(("w1 <image>",), 0)])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"input_ids": [3, 16], "labels": [3, 4]}, "row 0 has the token 16 in input_ids"),
        ({"input_ids": [-1, 3], "labels": [3, 4]}, "row 0 has the token -1 in input_ids"),
        ({"input_ids": [-100, 3], "labels": [3, 4]}, "row 0 has the token -100 in input_ids"),
        ({"input_ids": [3, 3], "labels": [-100, 17]}, "row 0 has the token 17 in labels"),
    ],
)
def test_rows(row: dict[str, list[int]], said: str) -> None:
    fine = {"input_ids": [0, 15], "labels": [-100, 15]}
    columns = ("input_ids", "labels")
    check_rows([fine], 16, lambda number: f"row {number}", columns)
    check_rows([row], None, lambda number: f"row {number}", columns)
    with pytest.raises(UserError, match=f"{said}.*0 to 15"):
        check_rows([row], 16, lambda number: f"row {number}", columns)
