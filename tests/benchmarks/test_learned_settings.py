"""The benchmark of learned settings: what it asks for, and how its table sums up."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.learned_settings import WAYS, run, table
from tests.benchmarks.asked import Asked

LOSS = {"default": (0.7, 0.8, 0.9), "learned": (0.5, 0.5, 0.8)}


def write(folder: Path, loss: float, score: float, **more: object) -> None:
    folder.mkdir(parents=True)
    seconds = {"search": 25.0, "stop": 5.0, "train": 10.0}
    values = {"primary_metric": "accuracy", "test_loss": loss, "metrics": {"accuracy": score}}
    (folder / "result.json").write_text(
        json.dumps({**values, "processor_seconds": seconds, **more}), encoding="utf-8"
    )


def lora(*decays: float) -> dict[str, object]:
    decay = dict(zip("abc", decays, strict=True))
    found_with = {"model": None, "rank": None}  # no values of modules
    return {"settings": {"decay": decay, "temperature": 1.5, "found_with": found_with}}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    for seed, decays in enumerate([(1.0, 10.0, 100.0), (2.0, 20.0, 200.0), (3.0, 2.0, 1.0)]):
        for way, losses in LOSS.items():
            more = {"lora": lora(*decays)} if way == "learned" else {}
            write(
                tmp_path / "sst2_200" / f"seed{seed}" / way, losses[seed], 0.5 + seed / 10, **more
            )
    return tmp_path


def test_ways_have_means_and_the_seeds_behind_them(out: Path) -> None:
    lines = list(table(out))
    assert lines[0] == (
        "sst2_200 default: 3 seeds, test loss 0.800 (0.7 0.8 0.9), "
        "accuracy 0.600 (0.5 0.6 0.7), 40 processor s"
    )
    assert not [line for line in lines if "random" in line or "stopped" in line]


def test_differences_are_students_over_seeds_in_pairs(out: Path) -> None:
    less = np.array(LOSS["learned"]) - np.array(LOSS["default"])
    low, high = stats.t.interval(0.95, 2, less.mean(), stats.sem(less))
    (line,) = [line for line in table(out) if line.startswith("    learned - default")]
    assert f"loss {less.mean():+.3f} ({low:+.3f} to {high:+.3f})" in line


def test_agreement_is_between_every_two_seeds(out: Path) -> None:
    """Two orders are the same, the third is the other way round; middles are geometric."""
    lines = [line.strip() for line in table(out)]
    assert "decay: Spearman between seeds -0.33 over 3" in lines
    assert f"decay: geometric means 10 20 {6 ** (1 / 3):.3g}" in lines


def test_a_seed_that_lacks_a_way_is_left_out_of_its_pairs(out: Path) -> None:
    for seed in (1, 2):
        (out / "sst2_200" / f"seed{seed}" / "learned" / "result.json").unlink()
    assert not [line for line in table(out) if " - " in line or "Spearman" in line]


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("task", ["sst2", "stsb"])
def test_every_way_asks_for_options_that_there_are(
    way: str, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "learned", 0.5, 0.5)
    asked = Asked(monkeypatch)
    run(tmp_path if way != "learned" else tmp_path / "new", way, task, tmp_path, 200, 3)
    plan = asked.plan()
    assert (plan.seed, plan.task.max_train, plan.task.subset_seed) == (3, 200, 3)
    if way == "random":  # as long as `learned` took to know its settings and passes
        assert plan.method.processor_seconds == 30


def test_what_is_there_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "default", 0.5, 0.5)
    asked = Asked(monkeypatch)
    run(tmp_path, "default", "sst2", tmp_path, 200, 0)
    assert not asked.words
