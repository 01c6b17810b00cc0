"""What each source was worth: the last quarter of the records, against an equal part."""

import json

import numpy as np
import pytest

from experiments.plots import source_weights, watched
from experiments.results import source_table
from problems.common.records import SOURCE_WEIGHT

SIZES = {"a": 100, "b": 100, "c": 300, "d": 10}


def records(count=40):
    """a rises to 0.6, b falls to 0.01, c ends around an equal part, d has the rest."""
    generator = np.random.default_rng(0)
    found = []
    for i in range(count):
        done = min(1.0, i / (0.6 * count))
        noise = 0.02 * generator.standard_normal()
        a, b, c = 0.25 + 0.35 * done, 0.25 - 0.24 * done, 0.25 + noise
        weights = {"a": a, "b": b, "c": c, "d": 1 - a - b - c}
        named = {f"{SOURCE_WEIGHT}{name}": value for name, value in weights.items()}
        found.append({"stage": "train", "step": i, "kind": "watch", **named})
    return found


def test_verdicts_are_of_the_last_quarter():
    table = source_table.of_records(records(), SIZES)
    rows = {row["source"]: row for row in table["sources"]}
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "a": "helps",
        "b": "harms",
        "c": "neutral",
        "d": "neutral",
    }
    assert table["records"] == 10
    assert table["weights"]["a"] == pytest.approx(0.6)
    assert table["weights"]["b"] == pytest.approx(0.01)
    assert rows["a"]["low"] == pytest.approx(rows["a"]["high"])
    assert rows["c"]["low"] < 0.25 < rows["c"]["high"]
    assert sum(table["weights"].values()) == pytest.approx(1)
    # what a source has of the loss: its examples count too
    assert rows["c"]["share"] == pytest.approx(
        300 * rows["c"]["weight"] / sum(SIZES[n] * row["weight"] for n, row in rows.items())
    )


def test_few_records_have_no_verdict():
    table = source_table.of_records(records(12), SIZES)
    assert {row["verdict"] for row in table["sources"]} == {None}
    assert "too few records" in "\n".join(source_table.lines(table))


def test_runs_without_sources_have_no_table(tmp_path):
    other = [{"stage": "train", "step": 1, "kind": "watch", "density": 0.5}]
    assert source_table.of_records(other, {}) is None
    assert not source_weights.draw(other, {}, tmp_path / "x.png")


def test_lines_begin_with_the_largest():
    said = source_table.lines(source_table.of_records(records(), SIZES))
    assert said[0].split()[0] == "a"
    assert said[0].endswith("helps")
    assert said[-1].split()[0] in ("b", "d")


def test_the_file_is_what_a_task_reads(tmp_path):
    table = source_table.of_records(records(), SIZES)
    source_table.write("a run", table, tmp_path)
    values = json.loads((tmp_path / source_table.FILE).read_text())
    assert values["title"] == "a run"
    assert values["weights"] == table["weights"]


def test_the_picture_has_a_line_a_source(tmp_path, kept):
    result = {"method": "source_weights", "task": "t", "model": "m", "seed": 0}
    result["source_weights"] = source_table.of_records(records(), SIZES)
    assert source_weights.draw(records(), result, tmp_path / "source_weights.png")
    (figure,) = kept
    (axes,) = figure.axes
    named = {line.get_label().split(":")[0]: line for line in axes.get_lines()}
    assert {"a", "b", "c", "d"} <= set(named)
    assert named["a"].get_ydata()[-1] == pytest.approx(0.6)
    assert "a: 0.600, helps" in [text.get_text() for text in axes.get_legend().get_texts()]
    # and they are not drawn again, a panel each
    assert not watched.draw_others(records(), result, tmp_path / "watched.png")


def table_of(names):
    rows = [
        {"source": name, "examples": 1, "weight": 1 / (i + 2), "low": 0.0, "high": 1.0}
        for i, name in enumerate(names)
    ]
    return {"sources": [{**row, "verdict": "neutral"} for row in rows], "records": 5, "even": 0.1}


def test_a_name_takes_one_line_of_the_terminal():
    said = source_table.lines(table_of(["a\nb\tc", "x" * 300]))
    assert len(said) == 2
    assert said[0].startswith("a b c ")
    assert said[1].startswith("xxx")
    assert max(map(len, said)) < 100
    assert all("\n" not in line and "\t" not in line for line in said)


def test_of_many_sources_both_ends_are_shown():
    said = source_table.lines(table_of([f"s{i}" for i in range(100)]))
    assert len(said) == 21
    assert [line.split()[0] for line in (said[0], said[9], said[11], said[20])] == [
        *("s0", "s9", "s90", "s99")
    ]
    assert "80 more" in said[10]
    assert source_table.FILE in said[10]


def test_every_named_source_is_in_the_legend(tmp_path, kept):
    """matplotlib leaves out what begins with an underscore."""
    found = [
        {"stage": "train", "step": i, "kind": "watch"}
        | {f"{SOURCE_WEIGHT}{name}": 0.5 for name in ("_crawl", "b")}
        for i in range(8)
    ]
    result = {"method": "source_weights", "task": "t", "model": "m", "seed": 0}
    result["source_weights"] = source_table.of_records(found, {"_crawl": 1, "b": 1})
    assert source_weights.draw(found, result, tmp_path / "source_weights.png")
    (axes,) = kept[-1].axes
    shown = [text.get_text() for text in axes.get_legend().get_texts()]
    assert [said.strip().partition(":")[0] for said in shown] == ["_crawl", "b"]


def test_a_picture_of_many_sources_stays_one(tmp_path, kept):
    names = [f"s{i}" for i in range(120)]
    found = [
        {"stage": "train", "step": i, "kind": "watch"}
        | {f"{SOURCE_WEIGHT}{name}": 1 / 120 for name in names}
        for i in range(8)
    ]
    result = {"method": "source_weights", "task": "t", "model": "m", "seed": 0}
    result["source_weights"] = source_table.of_records(found, dict.fromkeys(names, 1))
    assert source_weights.draw(found, result, tmp_path / "source_weights.png")
    figure = kept[-1]
    assert figure.get_size_inches()[1] < 12
    (axes,) = figure.axes
    assert axes.get_ylim()[1] < 0.02  # where the lines are
    assert len(axes.get_legend().get_texts()) == 21
    assert "100 more" in axes.get_legend().get_texts()[-1].get_text()
