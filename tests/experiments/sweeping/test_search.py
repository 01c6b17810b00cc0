"""A search with Optuna: by the validation score, and on from where it was stopped."""

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from bilevel.errors import UserError
from experiments.cli import stopping
from experiments.config.composition import hydra_app
from experiments.sweeping.sweep import Sweep
from experiments.sweeping.ties import Tie

pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="the extra optuna")

SPACE = ["train.lr=tag(log,interval(1e-4,1e-1))", "method.rank=2,4"]


class Runs:
    """Plays the runs: the nearer a learning rate is to 0.01 the better is its score."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float]] = []
        self.at: dict[int, Callable[[], Any]] = {}

    def __call__(self, config: DictConfig, *, tie: Tie) -> float:
        number = int(HydraConfig.get().job.num)
        self.seen.append((number, config.train.lr))
        if number in self.at:
            self.at.pop(number)()
        return -abs(math.log10(config.train.lr) + 2)


def search(runs: Runs, folder: Path, *words: str) -> None:
    """A study of eight runs."""
    fixed = ["method=lora", "hydra/sweeper=optuna", f"hydra.sweep.dir={folder}"]
    sized = ["hydra.sweeper.n_trials=8", "hydra.sweeper.sampler.seed=3"]
    with hydra_app() as app:
        Sweep(app, [*fixed, *sized, *SPACE, *words]).run(runs)


def trials(folder: Path) -> list[Any]:
    import optuna

    return optuna.load_study("search", f"sqlite:///{folder}/study.db").trials


def test_the_best_has_the_largest_score(tmp_path: Path) -> None:
    runs = Runs()
    search(runs, tmp_path)
    assert [number for number, _ in runs.seen] == list(range(8))
    with open(tmp_path / "optimization_results.yaml", encoding="utf-8") as file:
        best = yaml.safe_load(file)
    scores = {lr: -abs(math.log10(lr) + 2) for _, lr in runs.seen}
    assert best["best_value"] == pytest.approx(max(scores.values()))
    assert best["best_params"]["train.lr"] == pytest.approx(max(scores, key=scores.__getitem__))


def die() -> None:
    raise SystemExit  # as if the process were gone


def ask() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("end", [die, ask])
def test_a_search_goes_on_where_it_was_stopped(tmp_path: Path, end: Callable[[], None]) -> None:
    first = Runs()
    first.at = {4: end}
    with stopping.orderly(), stopping.telling(lambda: None):
        if end is die:
            with pytest.raises(SystemExit):
                search(first, tmp_path)
        else:
            search(first, tmp_path)
    assert [number for number, _ in first.seen] == [0, 1, 2, 3, 4]
    second = Runs()
    search(second, tmp_path, "run.resume=auto")
    assert [number for number, _ in second.seen] == [4, 5, 6, 7]
    assert second.seen[0] == first.seen[4]  # the same folder has the same run
    rates = {lr for _, lr in [*first.seen, *second.seen]}
    assert len(rates) == 8  # a seeded sampler does not repeat itself
    assert all(trial.state.name == "COMPLETE" for trial in trials(tmp_path))
    assert len(trials(tmp_path)) == 8
    third = Runs()
    search(third, tmp_path, "run.resume=auto")
    assert third.seen == []


def test_runs_at_once_go_on_too(tmp_path: Path) -> None:
    runs = Runs()
    runs.at = {4: die}
    with pytest.raises(SystemExit):
        search(runs, tmp_path, "hydra.sweeper.n_jobs=3")
    # Of 3, 4 and 5, which were asked for together, none has been told.
    again = Runs()
    search(again, tmp_path, "hydra.sweeper.n_jobs=3", "run.resume=auto")
    assert [number for number, _ in again.seen] == [3, 4, 5, 6, 7]
    assert again.seen[:2] == runs.seen[3:5]


def test_a_study_is_not_taken_for_another(tmp_path: Path) -> None:
    search(Runs(), tmp_path)
    with pytest.raises(UserError, match=r"run\.resume=auto"):
        search(Runs(), tmp_path)


def test_a_run_without_a_score_has_failed(tmp_path: Path) -> None:
    class Some(Runs):
        def __call__(self, config: DictConfig, *, tie: Tie) -> float:
            score = super().__call__(config, tie=tie)
            return math.nan if len(self.seen) in (2, 3) else score

    runs = Some()
    search(runs, tmp_path)
    assert len(runs.seen) == 8
    assert [t.number for t in trials(tmp_path) if t.state.name == "FAIL"] == [1, 2]


def test_a_search_of_nothing_but_failures_is_told(tmp_path: Path) -> None:
    class Hopeless(Runs):
        def __call__(self, config: DictConfig, *, tie: Tie) -> float:
            return math.nan

    with pytest.raises(UserError, match="validation"):
        search(Hopeless(), tmp_path, "hydra.sweeper.n_trials=2")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=0,1,2"], "seed"),
        (["hydra.sweeper.direction=minimize"], "maximize"),
        (["train.lr=1e-3", "method.rank=2"], "interval"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        search(Runs(), tmp_path / "new", *words)
    assert not (tmp_path / "new").exists()


def test_what_is_fixed_is_looked_at_before_the_first_run(tmp_path: Path) -> None:
    with hydra_app() as app:
        words = ["method=lora", "hydra/sweeper=optuna", *SPACE, f"hydra.sweep.dir={tmp_path}"]
        (config,) = Sweep(app, words).configs()
    assert config.train.lr == pytest.approx(1e-4)
    assert config.method.rank == 2
