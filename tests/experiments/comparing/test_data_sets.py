"""Runs of one task on different data are not in one table."""

import json
from pathlib import Path
from typing import Any

from experiments import report
from experiments.comparing.data_sets import by_data
from tests.experiments.test_report import result, save


def run(labels: list[str] | None, kind: str = "classes", **other: Any) -> dict[str, Any]:
    return {"task": "classification", "kind": kind, "labels": labels, **other}


def tasks(*runs: dict[str, Any]) -> list[str]:
    return [r["task"] for r in by_data(runs)]


def test_one_data_set_keeps_its_name() -> None:
    assert tasks(run(["a", "b"]), run(["b", "a"])) == ["classification"] * 2


def test_other_labels_or_another_kind_are_told() -> None:
    found = tasks(run(["a", "b"]), run(["a", "c"]), run(["a", "b"]), run(None, "number"))
    assert found == [
        "classification (a, b)",
        "classification (a, c)",
        "classification (a, b)",
        "classification (number)",
    ]


def test_names_that_are_shortened_to_the_same_have_numbers() -> None:
    long = [f"label {i}" for i in range(20)]
    first, second = tasks(run(long), run([*long, "label z"]))
    assert first.endswith("..., 1)")
    assert second.endswith("..., 2)")
    assert len(first) < 70


def test_the_same_labels_of_two_kinds() -> None:
    first, second = tasks(run(["a", "b"]), run(["a", "b"], "labels"))
    assert (first, second) == ("classification (a, b, 1)", "classification (a, b, 2)")


def test_what_an_older_version_did_not_say_changes_nothing() -> None:
    old = {"task": "classification"}
    assert tasks(old, run(["a", "b"])) == ["classification"] * 2
    assert tasks(old, run(["a"]), run(["b"]))[0] == "classification"


def test_a_report_has_a_table_for_each(tmp_path: Path) -> None:
    for i, labels in enumerate((["a", "b"], ["a", "b"], ["c", "d"])):
        values = result("lora", i, 0.8, task="classification", kind="classes", labels=labels)
        save(tmp_path / str(i), values, [])
    report.report([tmp_path], tmp_path)
    found = json.loads((tmp_path / "comparison.json").read_text())["comparisons"]
    seeds = {c["task"]: [len(m["runs"]) for m in c["methods"]] for c in found}
    assert seeds == {"classification (a, b)": [2], "classification (c, d)": [1]}
