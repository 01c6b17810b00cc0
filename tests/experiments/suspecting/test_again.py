"""What a run's own training says of the trainings on its data: where, and for how long."""

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.cli.command_line import CommandLine
from experiments.results.finished_run import SavedRun
from experiments.suspecting.again import left_out, plan_of
from tests.experiments.test_suspects import made


def opened(run: Path) -> SavedRun:
    return SavedRun.open(str(run), CommandLine.of_one([]), [])


@pytest.mark.parametrize(
    ("words", "places"),
    [
        (["method=lora_all"], "all"),
        (["method=adalora"], "all"),
        (["method=lora", "train.target_modules=[query]"], ["query"]),
        (["method=lora"], "qv"),
    ],
)
def test_lora_is_trained_again_where_the_run_adapted_the_model(
    words: list[str], places: Any, quick: list[str], tmp_path: Path
) -> None:
    options = ["task=demo_noisy", "task.trusted=20", "train.warmup_steps=3"]
    saved = opened(made(quick, tmp_path / "run", *options, *words))
    plan = plan_of(saved, 40)
    assert plan.places == places
    # of a run's length: trusted examples may take fewer steps than that
    assert plan.settings.warmup_steps is None


@pytest.mark.parametrize(
    ("words", "steps"),
    [(["method=lora"], 3), (["method=example_weights", "method.unroll_steps=2"], 6)],
)
def test_steps_of_the_run_become_passes_over_its_examples(
    words: list[str], steps: int, quick: list[str], tmp_path: Path
) -> None:
    """They would cut the training on the trusted ones too; of two levels each is T1 lower ones."""
    own = ["task=demo_noisy", "task.trusted=20", "train.max_steps=3", *words]
    saved = opened(made(quick, tmp_path / "run", *own))
    settings = plan_of(saved, 96).settings
    assert settings.max_steps is None
    assert settings.epochs == pytest.approx(steps * 8 / 96)
    assert plan_of(saved, 8).settings.epochs == 2  # no more than the run's


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["method=lora", "method.hold_out=0.25", "engine.early_stopping=2", "engine.keep=best"],
            ["method.hold_out=0.25"],
        ),
        (["method=random_settings", "method.trials=1"], ["the settings that its search found"]),
    ],
)
def test_a_run_that_found_its_own_length_is_not_outlasted(
    words: list[str], told: list[str], quick: list[str], tmp_path: Path
) -> None:
    own = ["task=demo_noisy", "task.trusted=20", "engine.evaluate_every=0.5"]
    run = made(quick, tmp_path / "run", *own, *words)
    values = json.loads((run / "result.json").read_text())
    values["kept"]["train"] = {"weights": "best", "step": 3}
    (run / "result.json").write_text(json.dumps(values))
    examples = 57 if words[0] == "method=lora" else 76  # a search trains on all in the end
    values["configuration"]["train"] |= {"max_steps": None, "epochs": 20.0}
    (run / "result.json").write_text(json.dumps(values))
    assert plan_of(opened(run), 76).settings.epochs == pytest.approx(3 * 8 / examples)
    assert left_out(opened(run)) == told
