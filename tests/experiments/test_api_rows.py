"""Rows as people have them in Python: formats of data sets, padding by hand, wrong values."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from bilevel.data import split
from bilevel.errors import UserError
from experiments.answers import Decoding
from experiments.api import finetune, search_ranks
from experiments.tasks import in_memory_rows
from experiments.training import trained_rows
from problems import LoRA
from problems.common.same_examples import mark
from tests.experiments import writers

QUICK: dict[str, Any] = {"batch_size": 4, "max_steps": 2, "lr": 1e-2}
QUICK |= {"engine": {"precision": "fp32"}}
SHARED = ("metrics", "test_loss", "train_loss", "adapter_parameters")


def classifier(tiny: Path, labels: int = 2) -> Any:
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=labels)


def labelled(count: int = 12) -> list[dict[str, Any]]:
    return [
        {"input_ids": [2, 5 + i, 7, 3][: 3 + i % 2], "attention_mask": [1] * (3 + i % 2)}
        | {"label": i % 2}
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def plain(tiny: Path) -> dict[str, Any]:
    """The result of plain Python rows."""
    return run(tiny, {"train": labelled(), "test": labelled(6)})


def run(tiny: Path, data: Any) -> dict[str, Any]:
    result = finetune(classifier(tiny), writers.tokenizer(), data, LoRA(rank=2), **QUICK).result
    return {name: result[name] for name in SHARED}


def sets(kind: str | None) -> Any:
    found = DatasetDict({"train": Dataset.from_list(labelled())})
    found["test"] = Dataset.from_list(labelled(6))
    return found.with_format(kind)


@pytest.mark.parametrize("kind", [None, "numpy", "torch", "pandas", "arrow"])
def test_formats_of_data_sets(kind: str | None, tiny: Path, plain: dict[str, Any]) -> None:
    assert run(tiny, sets(kind)) == plain


@pytest.mark.parametrize(
    "convert",
    [
        pd.DataFrame,
        iter,
        lambda rows: [{k: torch.tensor(v) for k, v in row.items()} for row in rows],
        lambda rows: [{k: np.array(v) for k, v in row.items()} for row in rows],
        lambda rows: [{k: np.int64(v) if k == "label" else tuple(v)} | row for row in rows
                      for k, v in row.items() if k == "label"],
        lambda rows: [row | {"label": torch.tensor([row["label"]])} for row in rows],
        lambda rows: [row | {"label": bool(row["label"])} for row in rows],
        pa.Table.from_pylist,
        lambda rows: SimpleNamespace(to_dicts=lambda: rows, columns=[*rows[0]]),  # polars
    ],
)  # fmt: skip
def test_rows_of_other_kinds(convert: Any, tiny: Path, plain: dict[str, Any]) -> None:
    assert run(tiny, {"train": convert(labelled()), "test": convert(labelled(6))}) == plain


def test_a_run_goes_on_with_its_own_rows(tiny: Path, tmp_path: Path) -> None:
    data = {"train": labelled(), "test": labelled(6)}

    def go_on(**other: Any) -> dict[str, Any]:
        given = classifier(tiny), writers.tokenizer(), {**data, **other}
        method, place = LoRA(rank=2), tmp_path / "run"
        return finetune(*given, method, folder=place, resume=True, **QUICK).result

    first = go_on()
    assert go_on(train=iter(labelled())) == first  # finished, and of the same rows
    for name in data:
        with pytest.raises(UserError, match=f"other data: the examples of {name} are not"):
            go_on(**{name: data[name][::-1]})


def padded(rows: list[dict[str, Any]], before: int = 0, mask: bool = True) -> list[dict[str, Any]]:
    """Padding by hand to eight tokens, some of it before them."""
    found = copy.deepcopy(rows)
    for row in found:
        behind = 8 - before - len(row["input_ids"])
        row["attention_mask"] = [0] * before + [1] * len(row["input_ids"]) + [0] * behind
        row["input_ids"] = [0] * before + row["input_ids"] + [0] * behind
        if isinstance(row.get("labels"), list):
            row["labels"] = [-100] * before + row["labels"] + [-100] * behind
        if not mask:
            del row["attention_mask"]
    return found


@pytest.mark.parametrize(("before", "mask"), [(0, True), (2, True), (0, False)])
def test_padding_by_hand_of_classes(
    before: int, mask: bool, tiny: Path, plain: dict[str, Any]
) -> None:
    data = {"train": padded(labelled(), before, mask), "test": padded(labelled(6), before, mask)}
    assert run(tiny, data) == plain


@pytest.mark.parametrize(("before", "mask"), [(0, True), (2, True), (0, False)])
def test_padding_by_hand_of_tags(before: int, mask: bool, tiny: Path) -> None:
    names = {0: "O", 1: "B-A", 2: "I-A"}
    rows = [{"input_ids": [2, 5 + i % 9, 7, 3], "labels": [-100, 1, 2, -100]} for i in range(8)]
    results = []
    for part in (rows, padded(rows, before, mask)):
        torch.manual_seed(0)
        model = AutoModelForTokenClassification.from_pretrained(tiny, num_labels=3, id2label=names)
        data = {"train": part, "test": part[:4]}
        result = finetune(model, writers.tokenizer(), data, LoRA(rank=2), **QUICK).result
        results.append({name: result[name] for name in SHARED})
    assert results[0] == results[1]


@pytest.mark.parametrize("kind", ["gpt2", "bart"])
@pytest.mark.parametrize("mask", [True, False])
def test_padding_by_hand_of_text(kind: str, mask: bool) -> None:
    if kind == "gpt2":
        rows = [
            {"input_ids": [4, 5 + i, 1, 6, 2], "labels": [-100, -100, -100, 6, 2]} for i in range(8)
        ]
        others = padded(rows, 0, mask)
    else:
        rows = [{"input_ids": [4, 5 + i, 2], "labels": [6, 2]} for i in range(8)]
        tokens = padded([{"input_ids": row["input_ids"]} for row in rows], 0, mask)
        fill = -100 if mask else 0
        others = [{**t, "labels": [*r["labels"], fill, fill]} for t, r in zip(tokens, rows)]  # noqa: B905
    results = []
    for part in (rows, others):
        data = {"train": part, "test": part[:2]}
        model, tokenizer = writers.model(kind), writers.tokenizer()
        few = Decoding(max_new_tokens=3)
        result = finetune(model, tokenizer, data, LoRA(rank=2), decoding=few, **QUICK).result
        results.append({name: result[name] for name in SHARED})
    assert results[0] == results[1]


FINE = {"input_ids": [2, 5, 3], "label": 0}
WRONG: list[tuple[Any, str]] = [
    ([[2, 5, 3]], "row 0 of train is of the type list: a row is a mapping"),
    (["a text"], "row 0 of train is of the type str"),
    ([{**FINE, "input_ids": "2 5 3"}], "row 0 of train has '2 5 3' in input_ids.*whole numbers"),
    ([{**FINE, "input_ids": ["2", "5"]}], "row 0 of train has '2' in input_ids"),
    ([{**FINE, "input_ids": [2, 5.5]}], "has 5.5 in input_ids"),
    ([{**FINE, "input_ids": [2, None]}], "has None in input_ids"),
    ([{**FINE, "input_ids": [2, True]}], "has True in input_ids"),
    ([{**FINE, "input_ids": None}], "has None in input_ids"),
    ([{**FINE, "input_ids": 7}], "has 7 in input_ids"),
    ([{**FINE, "input_ids": [[2, 5, 3]]}], "lists in input_ids.*return_tensors"),
    ([{**FINE, "input_ids": torch.tensor([[2, 5]])}], "lists in input_ids.*return_tensors"),
    ([{**FINE, "input_ids": [2, 99999]}], "the token 99999 in input_ids.*embeddings"),
    ([{**FINE, "input_ids": [2, -1]}], "the token -1 in input_ids.*embeddings"),
    ([FINE, {**FINE, "attention_mask": [1, 1]}], "row 1 of train has 3 tokens and 2.*attention_m"),
    ([{**FINE, "attention_mask": [1, 0, 1]}], "attention_mask between"),
    ([{**FINE, "attention_mask": [0, 0, 0]}], "must have 1 in attention_mask"),
    ([{**FINE, "attention_mask": [1, 2, 1]}], "must have 1 in attention_mask"),
    ([{**FINE, "attention_mask": [1.0, 0.5, 1]}], "has 1.0 in attention_mask"),
    ([{**FINE, "token_type_ids": [0, 0]}], "3 tokens and 2 numbers in token_type_ids"),
    ([{**FINE, "token_type_ids": [0, 0, 2]}], "0 to 2 in token_type_ids.*0 to 1"),
    ([{**FINE, "label": "1"}], "has the label '1'.*whole number"),
    ([{**FINE, "label": 1.0}], r"has the label 1\.0.*whole number"),
    ([{**FINE, "label": None}], "has the label None"),
    ([{**FINE, "label": [0, 1]}], r"has the label \[0, 1\]"),
    ([{**FINE, "label": np.array([0, 1])}], r"has the label \[0, 1\]"),
    ([{**FINE, "label": -100}], "has the label -100"),
    (5, r"data\['train'\] is of the type int: rows are needed"),
    (None, r"data\['train'\] is None: rows are needed"),
    ("train.csv", r"data\['train'\] is of the type str: rows are needed"),
    ({"input_ids": [[2, 5]], "label": [0]}, r"data\['train'\] is one mapping.*input_ids"),
    (DatasetDict({"a": Dataset.from_list([FINE])}), r"data\['train'\] is one mapping, of a"),
    (pd.DataFrame([[[2, 3], 0, 1]], columns=["input_ids", "label", "label"]), "2 columns.*'label'"),
    ([{**FINE, "attention_mask": [1] * 3}, FINE], "row 1 of train has no att.* row 0 of train has"),
    ([FINE, {**FINE, "token_type_ids": [0] * 3}], "row 0 of train has no token_t.* row 1 of train"),
]


@pytest.mark.parametrize(("rows", "said"), WRONG)
def test_rows_that_are_wrong(rows: Any, said: str, tiny: Path) -> None:
    with pytest.raises(UserError, match=said):
        finetune(classifier(tiny), writers.tokenizer(), {"train": rows, "test": [FINE]}, LoRA())


@pytest.mark.parametrize("label", [float("nan"), float("inf"), "3.5", None, True, [1.0, 2.0], "x"])
def test_targets_that_are_no_number(label: Any, tiny: Path) -> None:
    rows = [{**FINE, "label": 0.5}, {**FINE, "label": label}]
    with pytest.raises(UserError, match=r"row 1 of train has the label .*: a finite number"):
        finetune(
            classifier(tiny, 1), writers.tokenizer(), {"train": rows, "test": rows[:1]}, LoRA()
        )


@pytest.mark.parametrize(
    ("kind", "row", "said"),
    [
        ("gpt2", {"labels": [-100, -100, -100]}, "the label -100 over its first tokens"),
        ("gpt2", {"labels": [-100, "5", 2]}, "has '5' in labels"),
        ("gpt2", {"labels": [-100, 5.0, 2]}, r"has 5\.0 in labels"),
        ("gpt2", {"labels": [-100, 99, 2]}, "the token 99 in labels"),
        ("bart", {"labels": [-100, -100]}, "has no label to learn"),
        ("bart", {"labels": []}, "has no label to learn"),
        ("bart", {"labels": [99]}, "the token 99 in labels"),
    ],
)
def test_texts_that_are_wrong(kind: str, row: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=f"row 0 of train .*{said}|{said}"):
        search_ranks(
            writers.model(kind), writers.tokenizer(), [{"input_ids": [4, 5, 2], **row}] * 40
        )


def test_splits_that_are_not_read_are_told(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = labelled()
    with pytest.raises(UserError, match="'dev': call it 'validation'"):
        run(tiny, {"train": rows, "dev": rows, "test": rows})
    run(tiny, {"train": rows, "test": rows, "unsupervised": rows})
    assert "data['unsupervised'] is not read" in caplog.text


def test_classes_without_an_example_are_said(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As when labels are counted from 1."""
    rows = [{**row, "label": row["label"] + 1} for row in labelled()]
    finetune(
        classifier(tiny, 3),
        writers.tokenizer(),
        {"train": rows, "test": rows},
        LoRA(rank=2),
        **QUICK,
    )
    assert "no example of 1 of the model's 3 classes (LABEL_0)" in caplog.text


def test_numbers_that_no_float_holds_and_missing_labels(tiny: Path) -> None:
    with pytest.raises(UserError, match="finite number"):
        finetune(
            classifier(tiny, 1),
            writers.tokenizer(),
            {"train": [{**row, "label": 10**400} for row in labelled()], "test": labelled()},
            LoRA(rank=2),
            **QUICK,
        )
    frame = pd.DataFrame([*labelled(), {**labelled()[0], "label": None}])
    with pytest.raises(UserError, match="pandas makes these floats"):
        run(tiny, {"train": frame, "test": labelled()})


@pytest.mark.parametrize("other", [0, np.int64(0), torch.tensor(0), [0]])
def test_two_labels_that_differ_are_refused(other: Any) -> None:
    row = {"input_ids": [2, 5, 3], "labels": 1, "label": other}
    with pytest.raises(UserError, match=r"row 3 has 1 in 'labels' and .*in 'label'"):
        in_memory_rows.labelled(row, "row 3", 2, None)
    row = {"input_ids": [2, 5], "labels": [0, 1], "label": [1, 1]}
    with pytest.raises(UserError, match="'label'"):
        in_memory_rows.tagged(row, "row 3", ["O", "B-X"], None)


@pytest.mark.parametrize("other", [1, 1.0, torch.tensor([1]), "pos", None, float("nan")])
def test_a_second_label_that_says_nothing_else_is_left(other: Any) -> None:
    row = {"input_ids": [2, 5, 3], "labels": 1, "label": other}
    assert in_memory_rows.labelled(row, "row", 2, None).label == 1
    row = {"input_ids": [2, 5], "labels": [0, 1], "label": 7}
    assert in_memory_rows.tagged(row, "row", ["O", "B-X"], None).tags == ("O", "B-X")


def test_what_is_held_out_is_not_remembered_as_trained_on(tiny: Path, tmp_path: Path) -> None:
    rows = labelled(20)
    assert len({*map(mark, rows)}) == 20
    data = {"train": rows, "test": labelled(6)}
    given = classifier(tiny), writers.tokenizer(), data, LoRA(rank=2, hold_out=0.2)
    result = finetune(*given, folder=tmp_path / "run", **QUICK).result
    rest, held = split(20, 0.8, result["seed"], [row["label"] for row in rows])
    assert trained_rows.read(tmp_path / "run") == {mark(rows[i]) for i in rest}
    assert len(held) == 4
