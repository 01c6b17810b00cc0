"""Labels are compared as written; a column is one of numbers only if all of it is."""

import json
from decimal import Decimal

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from bilevel.errors import UserError
from experiments.tasks.classification import Classification
from experiments.tasks.reading.labels import Classes, as_number, regression_target

BIG = 2**53


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([BIG, BIG + 1], [str(BIG), str(BIG + 1)]),
        ([str(10**20), str(10**20 + 1)], [str(10**20), str(10**20 + 1)]),
        (["007", "7"], ["007", "7"]),
        (["7", "07", "10"], ["07", "10", "7"]),  # by name: one is no number in its usual form
        (["1.10", "1.1"], ["1.1", "1.10"]),
        (["+1", "1"], ["+1", "1"]),
        (["1e3", "1000"], ["1000", "1e3"]),
        (["-0", "0"], ["-0", "0"]),
        (["10", "9", "-1"], ["-1", "9", "10"]),
        ([1, 1.0, "1", "1.0", " 1 ", 2], ["1", "2"]),
        ([np.int64(3), np.float32(1.0)], ["1", "3"]),
        ([10.5, "9.5"], ["9.5", "10.5"]),
        ([0.1, 0.1 + 2**-55], ["0.1", "0.10000000000000003"]),
        ([True, False], ["false", "true"]),
        (["True", "False"], ["False", "True"]),
        ([np.bool_(True), "false"], ["false", "true"]),
        ([True, 1, 0], ["0", "1", "true"]),
        ([1, "one"], ["1", "one"]),
        (["Pos", "pos"], ["Pos", "pos"]),
        (["é", "e\u0301"], ["e\u0301", "é"]),
        (["١", "1"], ["1", "١"]),  # an Arabic 1
    ],
)
def test_names_of_classes(labels, names):
    classes = Classes.of(labels)
    assert classes.names == names
    numbers = [classes.number(label) for label in labels]
    assert set(numbers) == set(range(len(names)))


def test_labels_of_another_file_mean_the_same():
    classes = Classes.of([1, 0])
    assert [classes.number(v) for v in ("1", "0.0", 1.0, np.int8(0), True)] == [1, 0, 1, 0, 1]
    for other in ("01", 2, 0.5, "one", BIG):
        with pytest.raises(UserError, match=r"unknown.*0, 1"):
            classes.number(other)
    codes = Classes.of(["007", "7"])
    assert [codes.number(v) for v in ("007", "7", 7)] == [0, 1, 1]
    with pytest.raises(UserError, match="unknown"):
        codes.number("7.0")


@pytest.mark.parametrize("labels", [[True, False], ["true", "false"], ["True", "False"]])
def test_true_is_one_class_however_a_file_spells_it(labels):
    classes = Classes.of(labels)
    for other in (True, np.bool_(True), "true", "True", "TRUE", 1, "1"):
        assert classes.number(other) == 1
    assert [classes.number(v) for v in (False, "false", "False", 0)] == [0, 0, 0, 0]
    for wrong in ("yes", 2, "t"):
        with pytest.raises(UserError, match="unknown"):
            classes.number(wrong)


def test_true_beside_other_classes_is_no_number():
    classes = Classes.of(["true", "false", "unsure"])
    with pytest.raises(UserError, match="unknown"):
        classes.number(1)


def test_equal_decimals_have_one_name():
    assert Classes.of([Decimal("1.10"), Decimal("2.50")]).names == ["1.1", "2.5"]
    long = Decimal("0." + "1" * 40 + "0")
    assert as_number(long) == long


def test_a_label_that_only_looks_known_is_told_apart():
    with pytest.raises(UserError, match=r"unknown.*'cafe\\u0301' is another.*'caf\\xe9'"):
        Classes.of(["cafe\u0301", "bar"]).number("caf\xe9")
    with pytest.raises(UserError, match="'pos' is another label than 'POS'"):
        Classes.of(["pos", "neg"]).number("POS")


@pytest.mark.parametrize(
    "labels", [["pos", "POS"], ["e\u0301", "\xe9"], ["a", "a\u200b"], ["7", "007"], ["1e3", "1000"]]
)
def test_labels_that_look_alike_are_said(tmp_path, caplog, labels):
    data = files(tmp_path, ".jsonl", [*labels, "else"])
    assert len(data.label_names) == 3
    assert ascii(labels[1]) in caplog.text
    assert "class of its own" in caplog.text


def test_numbers_too_close_for_a_float_stay_apart(tmp_path):
    for name in ("train", "test"):
        rows = [
            f'{{"text": "t", "label": {n}}}' for n in ("9007199254740993.0", "9007199254740992.0")
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    data = Classification(data_dir=str(tmp_path), text_columns="text").load()
    assert data.label_names == ["9007199254740992", "9007199254740993"]
    assert [example.label for example in data.train] == [1, 0]


def test_numbers_are_exact():
    assert as_number(float(BIG)) == BIG
    assert as_number("0.1") == as_number(0.1) == Decimal("0.1")
    assert as_number(f"{BIG + 1}.0") == BIG + 1
    assert all(as_number(v) is None for v in ("1,5", "", "1_0", "nan", "inf", b"1", [1], None))


def files(folder, suffix, labels):
    for name in ("train", "test"):
        path = folder / f"{name}{suffix}"
        rows = [{"text": f"t{i}", "label": label} for i, label in enumerate(labels)]
        if suffix == ".csv":
            lines = [f"{row['text']},{row['label']}" for row in rows]
            path.write_text("\n".join(["text,label", *lines]))
        elif suffix == ".jsonl":
            path.write_text("\n".join(map(json.dumps, rows)))
        else:
            parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return Classification(data_dir=str(folder), text_columns="text").load()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_format_keeps_labels_apart(tmp_path, suffix):
    data = files(tmp_path, suffix, [BIG, BIG + 1, BIG + 2])
    assert [example.label for example in data.train] == [0, 1, 2]
    data = files(tmp_path, suffix, ["007", "7", "07"])
    assert data.label_names == ["007", "07", "7"]
    assert [example.label for example in data.tests["test"]] == [0, 2, 1]


def test_white_space_around_labels_is_told(tmp_path, caplog):
    data = files(tmp_path, ".csv", ["pos", " pos", "neg"])
    assert data.label_names == ["neg", "pos"]
    assert "line 3" in caplog.text
    assert "' pos'" in caplog.text


def test_regression_targets():
    assert [regression_target(v) for v in ("1.5", 2, np.float32(0.5))] == [1.5, 2.0, 0.5]
    for wrong in ("", "x", None, b"1.5", [1.0], {"a": 1}, "nan", "inf", 10**400, "1_000", True):
        with pytest.raises(UserError, match="finite"):
            regression_target(wrong)
