"""The benchmark of source weights: the data that it makes, what it asks for, its table."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import source_mixture
from benchmarks.source_mixture import (
    LEARNED,
    WAYS,
    arguments,
    losses,
    right,
    run,
    table,
    write_data,
)
from experiments.metrics.crossed import crossed
from tests.benchmarks.asked import Asked

SIZE, TRUSTED, LEFT = 40, 10, 5


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """As many sentences as are drawn and some, twice each; a few are the test set's too."""
    monkeypatch.setattr(source_mixture, "SIZE", SIZE)
    monkeypatch.setattr(source_mixture, "TRUSTED", TRUSTED)
    count = 3 * SIZE + TRUSTED + LEFT
    sentences = [f"sentence {i}" for i in range(count)]
    train = pd.DataFrame({"sentence": sentences * 2, "label": [i % 2 for i in range(count)] * 2})
    test = pd.DataFrame({"sentence": [*sentences[:LEFT], "of the test"], "label": [0, 1] * 3})
    reviews = pd.DataFrame({"text": [f"review {i}" for i in range(SIZE + 5)], "label": 1})
    sst2, yelp = tmp_path / "sst2", tmp_path / "yelp"
    sst2.mkdir()
    yelp.mkdir()
    train.to_parquet(sst2 / "train.parquet")
    test.to_parquet(sst2 / "validation.parquet")
    reviews.to_parquet(yelp / "validation.parquet")
    return sst2, yelp


def read(folder: Path) -> dict[str, pd.DataFrame]:
    return {path.stem: pd.read_csv(path) for path in folder.glob("*.csv")}


def of_train(rows: pd.DataFrame) -> list[int]:
    """The labels that the training file has for these sentences."""
    return [int(text.split()[1]) % 2 for text in rows.text]


def test_sources_are_apart_and_have_the_noise_that_they_are_called_by(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    write_data(*folders, tmp_path / "data", seed=0)
    parts = read(tmp_path / "data")
    assert {name: len(rows) for name, rows in parts.items()} == {
        **{"clean": SIZE, "shuffled": SIZE, "flipped": SIZE, "reviews": SIZE},
        **{"validation": TRUSTED, "test": LEFT + 1},
    }
    alone = read(tmp_path / "data" / "d_val_alone")
    assert alone["train"].equals(parts["validation"])
    assert alone["test"].equals(parts["test"])
    texts = pd.concat([rows.text for rows in parts.values()])
    assert not texts.duplicated().any()  # no sentence of the test set is trained on either
    for name in ("clean", "validation"):
        assert parts[name].label.tolist() == of_train(parts[name])
    assert (1 - parts["flipped"].label).tolist() == of_train(parts["flipped"])
    shuffled, before = parts["shuffled"].label.tolist(), of_train(parts["shuffled"])
    assert sorted(shuffled) == sorted(before)
    assert shuffled != before
    assert parts["reviews"].text.str.startswith("review").all()


def test_each_seed_draws_its_own(folders: tuple[Path, Path], tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_data(*folders, tmp_path / name, seed)
    first, again, other = (read(tmp_path / name) for name in "abc")
    assert all(first[name].equals(again[name]) for name in first)
    assert not first["clean"].equals(other["clean"])


@pytest.mark.parametrize("way", list(WAYS))
def test_every_way_asks_for_options_that_there_are(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(monkeypatch)
    monkeypatch.setattr("experiments.training.warm_start.read_run", lambda *_: {})  # none is there
    run(tmp_path, way, 4)
    plan = asked.plan()
    assert plan.seed == 4
    alone = way.startswith("trusted") or way.endswith("then_trusted")
    stopped = way == "trusted_stopped"  # a folder of its own, without a validation file
    assert plan.task.data_dir == str((tmp_path / "d_val_alone" if stopped else tmp_path).resolve())
    assert set(plan.task.sources or ()) == (
        set() if stopped else {"trusted"} if alone else {"clean", "shuffled", "flipped", "reviews"}
    )
    started = {"pooled_then_trusted": "pooled", "weights_then_trusted": "source_weights"}.get(way)
    start = None if started is None else str((tmp_path / started).resolve())
    assert plan.model.warm_start == start
    out = (way.removeprefix("without_"),) if way.startswith("without_") else None
    assert plan.task.drop_sources == out
    assert (plan.task.keep_sources is not None) == (way == "clean")
    assert (plan.task.source_weights is not None) == (way == "under_weights")


def write_run(out: Path, probabilities: list[float]) -> None:
    """Of examples whose class is 1."""
    out.mkdir(parents=True)
    (out / "result.json").write_text(json.dumps({"processor_seconds": {"train": 2.5, "test": 0.5}}))
    rows = [
        {"label": 1, "prediction": int(p > 0.5), "probabilities": [1 - p, p]} for p in probabilities
    ]
    (out / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_table_has_means_and_differences_in_pairs(tmp_path: Path) -> None:
    said = {
        "pooled": [[0.4, 0.6, 0.2, 0.9], [0.4, 0.6, 0.6, 0.9]],
        "source_weights": [[0.6, 0.9, 0.4, 0.9], [0.9, 0.9, 0.9, 0.9]],
    }
    for way, seeds in said.items():
        for seed, found in enumerate(seeds):
            write_run(tmp_path / f"seed{seed}" / way, found)
    assert losses(tmp_path / "seed0" / "pooled")[0] == pytest.approx(-np.log(0.4))
    assert right(tmp_path / "seed0" / "pooled").tolist() == [0, 1, 0, 1]
    lines = list(table(tmp_path))
    loss = [-np.mean(np.log(each)) for each in said["pooled"]]
    assert lines[0] == (
        f"pooled: 2 seeds, accuracy 0.625 (0.500 0.750), test loss {np.mean(loss):.3f} "
        f"({loss[0]:.3f} {loss[1]:.3f}), 3 processor s"
    )
    more = crossed(np.array([[1, 0, 0, 0], [1, 0, 0, 0]], dtype=float))
    expected = f"{more.mean:+.3f} ({more.low:+.3f} to {more.high:+.3f})"
    assert f"    {LEARNED[0]} - pooled, accuracy: {expected}" in lines


def test_words_of_the_command_line_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def given(*words: str) -> list[str]:
        monkeypatch.setattr("sys.argv", ["source_mixture", f"--out={tmp_path}", *words])
        return arguments("Doc.", ("here", "there"), ("a", "b"), "0")[1]

    assert given("--here=x", "--there=y") == ["a", "b"]
    assert given("--table", "--only=b") == ["b"]
    for words, said in ((["--table", "--only=c"], "--only=c"), (["--here=x"], "--there")):
        with pytest.raises(SystemExit):
            given(*words)
        assert said in capsys.readouterr().err
