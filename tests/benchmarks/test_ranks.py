"""The benchmarks of ranks: what is kept of examples, what is measured together, sums over seeds."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import lines, planted_ranks, rank_evidence, rank_summary
from benchmarks.lines import EXAMPLES, array_of, measure
from bilevel.cutting import Losses
from bilevel.cutting.losses import difference
from experiments.metrics.crossed import crossed


def test_shares_of_examples_have_the_differences_mean_and_error() -> None:
    """Also where examples are of several words each."""
    draw = np.random.default_rng(0)
    terms = draw.integers(1, 9, 50)
    one, whole = (Losses(draw.gamma(2.0, terms), terms) for _ in range(2))
    shares, expected = rank_evidence._shares(one, whole), difference(one, whole)
    assert shares.mean() == pytest.approx(expected.mean, rel=1e-12)
    assert shares.std(ddof=1) / 50**0.5 == pytest.approx(expected.error, rel=1e-12)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ranks.csv"


@pytest.fixture
def quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what a program of its own does to its process."""
    monkeypatch.setattr(lines, "quiet", lambda: None)
    monkeypatch.setattr(lines.torch, "set_num_threads", lambda _: None)


def measured(file: Path, monkeypatch: pytest.MonkeyPatch, *folders: str, fails: str = "") -> None:
    """Two lines of each criterion and folder; ``fails`` in the midst of the two."""

    def said(folder: Path, criteria: list[Any], done: set[str]) -> Iterator[dict[str, Any]]:
        for name in (c.name for c in criteria if c.name not in done):
            for share in (1.0, 0.5):
                if name == fails and share == 0.5:
                    raise RuntimeError("stopped")
                rows = {"task": "t", "seed": folder.name, "what": name, "share": share}
                yield {**rows, "value": 1 / 3, EXAMPLES: [share, 2.0]}

    monkeypatch.setattr(
        sys, "argv", ["x", "--out", str(file), "--criteria", "singular,activation", *folders]
    )
    fields = ("task", "seed", "what", "share", "value")
    measure("page", fields, lambda f: {"seed": f.name}, said, lambda row: str(row["what"]))


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as rows:
        return list(csv.DictReader(rows))


@pytest.mark.usefixtures("quietly")
def test_lines_are_appended_and_what_is_there_is_not_measured_again(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(file, monkeypatch, "0")
    measured(file, monkeypatch, "0", "1")
    rows = read(file)
    assert [(row["seed"], row["what"], row["share"]) for row in rows] == [
        (seed, what, share)
        for seed in ("0", "1")
        for what in ("singular", "activation")
        for share in ("1", "0.5")
    ]
    assert {row["value"] for row in rows} == {"0.333333"}
    for row in rows:  # found again by what the file says
        np.testing.assert_allclose(np.load(array_of(file, row)), [float(row["share"]), 2.0])


@pytest.mark.usefixtures("quietly")
def test_what_belongs_together_is_written_together_or_not_at_all(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError):
        measured(file, monkeypatch, "0", fails="activation")
    assert [row["what"] for row in read(file)] == ["singular"] * 2
    measured(file, monkeypatch, "0")
    assert [row["what"] for row in read(file)] == ["singular"] * 2 + ["activation"] * 2


def test_even_and_random_parts_are_measured_with_the_singular_ones() -> None:
    names = ("whole", "nothing", "even", "random2", "singular", "activation")
    together = [rank_evidence._whole({"what": name}) for name in names]
    assert together == ["singular"] * 5 + ["activation"]


def rows_with(file: Path, differences: dict[tuple[str, str], list[float]]) -> list[dict[str, str]]:
    """A line for each (seed, what), with its examples beside the file."""
    rows = []
    for (seed, what), each in differences.items():
        row = {"task": "t", "seed": seed, "what": what, "share": "0.5"}
        array_of(file, row).parent.mkdir(exist_ok=True)
        np.save(array_of(file, row), np.array(each))
        rows.append(row)
    return rows


def test_intervals_are_over_seeds_and_examples_and_random_draws_are_one(file: Path) -> None:
    each = {("0", "random0"): [1.0, 2.0, 3.0], ("0", "random1"): [3.0, 2.0, 1.0]}
    each[("1", "random0")] = [0.0, 1.0, 5.0]
    rows = rows_with(file, each)
    ((key, group),) = rank_summary.grouped(rows).items()
    assert key == ("t", "random", "0.5")
    found = crossed(np.array([[2.0, 2.0, 2.0], [0.0, 1.0, 5.0]]))
    assert rank_summary.interval(file, group) == pytest.approx((found.mean, found.low, found.high))


def test_the_interval_of_one_seed_is_over_its_examples(file: Path) -> None:
    (row,) = rows_with(file, {("0", "singular"): [1.0, 2.0, 3.0, 6.0]})
    half = 1.96 * np.std([1, 2, 3, 6], ddof=1) / 2
    assert rank_summary.interval(file, [row]) == pytest.approx((3, 3 - half, 3 + half))


def test_without_examples_the_interval_is_over_the_seeds(file: Path) -> None:
    """Student's t of the means of the seeds; of one seed what its line says."""
    said = (("0", 1.0), ("0", 3.0), ("1", 3.0), ("2", 7.0))
    rows = [
        {"task": "t", "seed": seed, "what": "r2", "share": "x", "difference": str(d), "error": "2"}
        for seed, d in said
    ]
    half = 4.30265 * np.std([2, 3, 7], ddof=1) / 3**0.5  # t of two degrees of freedom
    found = rank_summary.interval(file, rows)
    assert found == pytest.approx((4, 4 - half, 4 + half), rel=1e-5)
    assert rank_summary.interval(file, rows[:1]) == pytest.approx((1, 1 - 3.92, 1 + 3.92))


def test_lora_trained_small_is_held_against_the_cut_of_its_size(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By seed; a line without a cut of its size does not count."""
    rows = []
    for seed, apart, score in (("0", "0.2", "0.8"), ("1", "-0.4", "0.5"), ("2", "", "0.9")):
        shared = {"task": "t", "seed": seed, "components": "24"}
        cut = {"what": "singular", "share": "0.25", "score": "0.6", "cut_difference": ""}
        trained = {"what": "r2", "share": "trained", "score": score, "cut_difference": apart}
        rows += [{**shared, **cut}, {**shared, **trained, "cut_error": ""}]
    rank_summary.against_cuts(rows)
    (line,) = capsys.readouterr().out.splitlines()[3:]
    assert line == "| t | r2 | 0,1 | -0.1000 | -3.9119 to +3.7119 | 1 of 2 | +0.050 |"


def test_lora_trained_small_is_held_against_the_cut_of_a_run_on_all_data(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By the two test losses; neither is the cut held against itself, nor rank 8 without a cut."""
    said = (
        ("singular", "0.25", "24", "9", "0.1"),
        ("r8 cut", "0.25", "24", "0.4", "0.6"),
        ("r2", "trained", "24", "0.5", "0.7"),
        ("r8", "trained", "96", "0.3", "0.9"),
    )
    names = ("what", "share", "components", "test_loss", "score")
    empty = {"cut_difference": "", "cut_error": ""}
    rows = [
        {"task": "t", "seed": "0", **dict(zip(names, each, strict=True)), **empty} for each in said
    ]
    rank_summary.against_cuts(rows, "r8 cut", ["r8 cut", "r8"])
    (line,) = capsys.readouterr().out.splitlines()[3:]
    assert line == "| t | r2 | 0 | +0.1000 | (+nan to +nan) | 0 of 1 | +0.100 |"


def test_ranks_of_seeds_are_held_against_each_other_by_kind(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """MiniLM's order, query and value of each layer: query agrees, value the other way round."""
    ranks = ("1 3 2 2 3 1", "2 1 4 2 6 3")
    rows = [
        {"task": "t", "seed": str(i), "what": "singular", "share": "0.5", "ranks": ranks[i]}
        for i in range(2)
    ]
    rank_summary.agreements(rows)
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("| t | singular | 2 | ")
    assert line.endswith("| 1.00 | -1.00 |")


@pytest.mark.parametrize(
    ("decay", "rescale", "known"), [(1, 1, True), (0.5, 1, False), (1, 2, False)]
)
def test_true_ranks_are_the_planted_ones_where_all_values_count_alike(
    decay: float, rescale: float, known: bool
) -> None:
    task: Any = SimpleNamespace(
        planted=SimpleNamespace(decay=decay, rescale=rescale),
        true_ranks={"a": 3, "b": 1},
        removal=SimpleNamespace(ranks=lambda total: {"a": total, "b": 0}),
    )
    assert planted_ranks.truth(task, 2) == ({"a": 3, "b": 1} if known else {"a": 2, "b": 0})
