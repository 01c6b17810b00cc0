"""Trackers get what metrics.jsonl gets, and never cost a training."""

import importlib.util
import json
import math
from pathlib import Path

import pytest

from bilevel import Callback
from bilevel.errors import UserError
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.training import trackers
from experiments.training.job import execute

SHORT = [
    *("task=demo", "task.max_train=32", "task.max_test=16", "train.max_steps=4"),
    *("engine.precision=fp32", "run.figures=false", "engine.metrics_every=2"),
]


class Client:
    """A tracker that remembers, and fails from its third line on."""

    name = "wandb"

    def __init__(self, lines: int = 10**6) -> None:
        self.said: list[tuple[int, dict[str, float]]] = []
        self.lines = lines
        self.ended = False

    def start(self) -> None:
        self.config: dict[str, object] = {}

    def store_init_configuration(self, values: dict[str, object]) -> None:
        self.config = values

    def log(self, values: dict[str, float], step: int) -> None:
        if len(self.said) == self.lines:
            raise ConnectionError("no network")
        self.said.append((step, values))

    def finish(self) -> None:
        self.ended = True


def run(folder: Path, *words: str):
    return execute(Plan.of(compose_config([*SHORT, *words])), folder)


def lines(folder: Path):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_tensorboard_reads_what_the_run_wrote(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    result = run(tmp_path, "method=lora", "run.report_to=[tensorboard]")
    found = events.EventAccumulator(str(tmp_path / trackers.FOLDER))
    found.Reload()
    losses = [
        (line["step"], line["lower_loss"]) for line in lines(tmp_path) if line["kind"] == "train"
    ]
    read = [(e.step, e.value) for e in found.Scalars("train/train/lower_loss")]
    assert [step for step, _ in read] == [step for step, _ in losses] == [2, 4]
    for (_, ours), (_, theirs) in zip(losses, read, strict=True):
        assert math.isclose(ours, theirs, rel_tol=1e-6)  # float32 there
    (accuracy,) = found.Scalars("test/accuracy")
    assert math.isclose(accuracy.value, result["metrics"]["accuracy"], rel_tol=1e-6)


def test_steps_are_counted_on_over_stages_and_the_configuration_is_told(tmp_path, monkeypatch):
    client = Client()
    monkeypatch.setattr(trackers, "_client", lambda name, folder: client)
    monkeypatch.setattr(trackers, "check_installed", lambda names: None)
    run(tmp_path, "method=autolora", "run.report_to=[wandb]")
    steps = [step for step, _ in client.said]
    assert steps == sorted(steps)
    search = max(line["step"] for line in lines(tmp_path) if line["stage"] == "search")
    retrain = max(line["step"] for line in lines(tmp_path) if line["stage"] == "retrain")
    assert steps[-1] == search + retrain
    assert client.config["method.rank"] == 8
    assert all(isinstance(v, bool | int | float | str) for v in client.config.values())
    assert client.ended


def test_a_resumed_run_goes_on_counting():
    client = Client()
    before = [{"stage": "search", "step": 7}, {"stage": "retrain", "step": 3}]
    told = trackers.Trackers([client], before)
    told.line({"stage": "retrain", "step": 4, "kind": "train", "lower_loss": 0.5, "gates": {}})
    assert client.said == [(11, {"retrain/train/lower_loss": 0.5})]


def test_a_tracker_that_fails_costs_no_training(tmp_path, monkeypatch, caplog):
    client = Client(lines=1)
    monkeypatch.setattr(trackers, "_client", lambda name, folder: client)
    monkeypatch.setattr(trackers, "check_installed", lambda names: None)
    result = run(tmp_path, "method=lora", "run.report_to=[wandb]")
    assert result["metrics"]
    assert "wandb failed" in caplog.text
    assert "no network" in caplog.text
    assert len(client.said) == 1
    assert client.ended


def test_a_missing_package_is_told_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"run.report_to=mlflow.*pip install '.\[mlflow\]'"):
        trackers.check_installed(["mlflow"])
    with pytest.raises(UserError, match=r"run.report_to.*tensorboard"):
        Plan.of(compose_config([*SHORT, "run.report_to=[tensorbord]"]))


class Following(Callback):
    """Counts, and asks for the end."""

    def __init__(self) -> None:
        self.steps = 0

    def on_step_end(self, engine) -> None:
        self.steps += 1
        if self.steps == 3:
            engine.request_stop("seen enough")


def test_the_users_own_callbacks_follow_a_stage(tmp_path):
    following = Following()
    execute(Plan.of(compose_config([*SHORT, "method=lora"])), tmp_path, callbacks=[following])
    assert following.steps == 3
    assert max(line["step"] for line in lines(tmp_path)) == 3
