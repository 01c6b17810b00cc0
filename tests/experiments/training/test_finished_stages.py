"""Journals of runs from Python of an older version: they say less, and some of it in text."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bilevel.errors import UserError
from bilevel.settings import plain
from experiments.config.schema import EngineOptions
from experiments.training.finished_stages import Journal, check_config
from problems.common.records import TrainSettings

OLDER = {
    "method": "LoRA()",
    "train": "{'lr': 0.01, 'epochs': 3}",
    "engine": repr(asdict(EngineOptions())),
}


def now(**changes: Any) -> dict[str, Any]:
    """What a run from Python says today."""
    engine = plain(EngineOptions(**changes.pop("engine", {})))
    train = plain(TrainSettings(**{"lr": 1e-2, "epochs": 3.0, **changes.pop("train", {})}))
    del train["precision"]
    rest = {"method": "LoRA()", "hypergradient": "Unrolled()", "seed": 7, **changes}
    return {**rest, "train": train, "engine": engine}


def checked(path: Path, config: dict[str, Any]) -> None:
    check_config(path, config)


def resumed(path: Path, config: dict[str, Any]) -> None:
    Journal(path, config, resume=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / "stages.json"


def leave(path: Path, config: dict[str, Any]) -> None:
    Journal(path, config, resume=False)
    assert json.loads(path.read_text())["config"] == config


@pytest.mark.parametrize("read", [checked, resumed])
def test_what_they_say_is_held_against_the_run(
    read: Callable[[Path, dict[str, Any]], None], path: Path
) -> None:
    for config in (now(), now(engine={"checkpoint_every": 3})):
        leave(path, OLDER)
        read(path, config)
    for change, words in (
        ({"train": {"epochs": 5.0}}, r"train\.epochs \(3 there, 5\.0 here\)"),
        ({"engine": {"precision": "bf16"}}, r"engine\.precision \(auto there, bf16 here\)"),
        ({"method": "LoRA(rank=2)"}, r"method \(LoRA\(\) there"),
    ):
        leave(path, OLDER)
        with pytest.raises(UserError, match=words):
            read(path, now(**change))


def test_settings_that_cannot_be_read_are_left_out(path: Path) -> None:
    leave(path, {**OLDER, "train": "{'lr': np.float64(0.01)}"})
    resumed(path, now())


def test_a_run_of_the_program_is_another(path: Path) -> None:
    leave(path, OLDER)
    config = {**now(), "method": {"_target_": "problems.lora.LoRA"}}
    with pytest.raises(UserError, match=r"method \(LoRA\(\) there"):
        checked(path, config)
