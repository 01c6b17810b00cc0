"""Parquet of rows whose types differ from window to window: refused when seen, or written whole."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from bilevel.errors import UserError
from experiments.predicting.formats import Parquet

LONG = Decimal("0.12345678901234567890")  # as a number of jsonl is read that no float is equal to
LARGE = 2**53 + 1


def column(folder: Path, *windows: list[Any]) -> list[Any]:
    """What is read back of a column that was seen and written in these windows."""
    form = Parquet("number", ())
    for values in windows:
        form.look([{"x": value} for value in values])
    parts = []
    for number, values in enumerate(windows):
        parts.append(folder / str(number))
        parts[-1].write_bytes(form.part([{"x": value, "prediction": 0.5} for value in values]))
    with (folder / "out.parquet").open("wb") as file:
        form.join(parts, file)
    return [row["x"] for row in parquet.read_table(folder / "out.parquet").to_pylist()]


@pytest.mark.parametrize(
    ("windows", "found"),
    [
        ([[{}], [{}]], [None, None]),
        ([[{}], [{"a": 1}]], [None, {"a": 1}]),
        ([[[{}]], [[]]], [[None], []]),
        ([[{"a": {}, "b": 1}], [{"b": 2}]], [{"a": None, "b": 1}, {"a": None, "b": 2}]),
        ([[LARGE], [7]], [LARGE, 7]),
        ([[2**53], [0.5]], [2.0**53, 0.5]),
        (
            [[{"id": LARGE}], [{"share": 0.5}]],
            [{"id": LARGE, "share": None}, {"id": None, "share": 0.5}],
        ),
        ([[-(2**63)], [2**63 - 1]], [-(2**63), 2**63 - 1]),
        ([[LONG], [0.5]], [float(LONG), 0.5]),
        ([[0.5], [LONG]], [0.5, float(LONG)]),
        ([[LONG, 0.5], [1]], [float(LONG), 0.5, 1.0]),
        ([[[LONG]], [[0.5, 1]]], [[float(LONG)], [0.5, 1.0]]),
    ],
)
def test_windows_of_several_types_that_have_one(
    windows: list[list[Any]], found: list[Any], tmp_path: Path
) -> None:
    assert column(tmp_path, *windows) == found


@pytest.mark.parametrize(
    ("windows", "said"),
    [
        ([[LARGE], [0.5]], r"2\*\*53"),
        ([[0.5], [LARGE]], r"2\*\*53"),
        ([[LARGE, 0.5]], r"2\*\*53"),
        ([[LARGE], [LONG]], r"2\*\*53"),
        ([[{"a": [LARGE]}], [{"a": [0.5]}]], r"2\*\*53"),
        ([[1], [2**63]], "9223372036854775808.*64 bits"),
        ([[10**400]], "64 bits"),
        ([[1], ["one"]], "several kinds"),
        ([[1, "one"]], "several kinds"),
        ([[True], [1]], "several kinds"),
    ],
)
def test_what_has_no_type_in_common_is_refused_when_it_is_seen(
    windows: list[list[Any]], said: str
) -> None:
    form = Parquet("number", ())

    def look() -> None:
        for values in windows:
            form.look([{"x": value} for value in values])

    with pytest.raises(UserError, match=rf"column 'x' .*{said}.*out=FILE\.jsonl"):
        look()


def test_a_value_that_was_not_seen_is_told_in_a_sentence() -> None:
    form = Parquet("number", ())
    form.look([{"x": 1}])
    with pytest.raises(UserError, match=r"no place for one of the values .*out=FILE\.jsonl"):
        form.part([{"x": "one", "prediction": 0.5}])
