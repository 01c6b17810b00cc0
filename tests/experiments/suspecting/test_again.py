"""What a run's own training says of the trainings on its data: where, and for how long."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bilevel.errors import UserError
from experiments import suspects
from experiments.cli.command_line import CommandLine
from experiments.evaluate import evaluate
from experiments.results.finished_run import SavedRun
from experiments.suspecting.again import left_out, plan_of
from tests.experiments.test_suspects import FEW, made


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


def scored_as_trained(folder: Path) -> bool:
    """Whether the folder alone gives the scores that its result.json has."""
    result = json.loads((folder / "result.json").read_text())
    found = evaluate(opened(folder), folder / "adapter")
    return bool(found["loss"] == pytest.approx(result["test_loss"], rel=1e-5))


def test_what_is_trained_from_a_warm_started_runs_base_is_read_with_it(
    quick: list[str], tmp_path: Path
) -> None:
    own = ["task=demo_noisy", "task.trusted=20", "method=lora"]
    first = made(quick, tmp_path / "first", *own, "train.lr=0.1")
    run = made(quick, tmp_path / "run", *own, f"model.warm_start={first}")
    suspects.main([f"run={run}", *FEW, "apply=drop", "count=4"])
    folder = run / "suspects_drop"
    assert scored_as_trained(folder)
    shutil.rmtree(run / "base")  # the folder stands by itself
    assert scored_as_trained(folder)
    shutil.rmtree(folder / "base")
    for alone in (run, folder):
        with pytest.raises(UserError, match=r"base, which is to hold them, is missing: put it"):
            opened(alone).spec()


def test_a_model_that_moved_is_remembered_where_it_is_now(
    quick: list[str], tiny: Path, tmp_path: Path
) -> None:
    model, moved = tmp_path / "model", tmp_path / "moved"
    shutil.copytree(tiny, model)
    own = ["task=demo_noisy", "task.trusted=20", "method=lora", f"model.pretrained={model}"]
    run = made(quick, tmp_path / "run", *own)
    model.rename(moved)
    for apply in ("trusted", "then_trusted"):
        words = [f"run={run}", *FEW, f"apply={apply}", f"model.pretrained={moved}"]
        suspects.main(words)
        assert scored_as_trained(run / f"suspects_{apply}")
