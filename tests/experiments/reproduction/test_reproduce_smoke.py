"""Real runs of the tables on stand-ins."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.reproduce import main, reproduce
from experiments.reproduction.entries import folder, load, names
from experiments.reproduction.options import Options
from experiments.reproduction.smoke import STAND_INS
from experiments.training.job import execute


def test_one_run_by_a_process_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["table=autolora/glue", "scale=smoke", "only=lora", "only=rte", f"out={tmp_path}"]
    main([*words, "run.figures=false", "train.max_steps=2", "task.max_test=16"])
    said = capsys.readouterr().out
    assert "1 run, 0 finished, 1 to do" in said
    assert "python -m experiments.run method=lora task=demo model=demo seed=0" in said
    text = (tmp_path / "autolora" / "glue" / "table.md").read_text()
    assert "NOT a reproduction" in text
    assert (tmp_path / "autolora" / "glue" / "comparison.png").is_file()
    (run,) = (tmp_path / "autolora" / "glue").glob("*/result.json")
    assert json.loads(run.read_text())["task"] == "demo"


@pytest.fixture(scope="module")
def made() -> dict[tuple[str, ...], Path]:
    """Runs that were made already, by their words: many tables have the same on stand-ins."""
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_every_row_on_stand_ins(
    name: str, tmp_path: Path, made: dict[tuple[str, ...], Path]
) -> None:
    entry = load(name)
    tasks = {task for block in entry.blocks for task in block.tasks}
    absent = {
        f"task={STAND_INS[task][0]}"
        for task in tasks
        if not (folder().parent / "task" / f"{STAND_INS[task][0]}.yaml").is_file()
    }
    if absent:
        pytest.skip(f"{name}: not there yet: {', '.join(absent)}")

    def run(words: list[str]) -> str | None:
        """In this process, once for each kind."""
        *rest, place = words
        target = Path(place.removeprefix("hydra.run.dir="))
        if tuple(rest) in made:
            shutil.copytree(made[tuple(rest)], target)  # places are not compared
        else:
            (target / ".hydra").mkdir(parents=True)
            OmegaConf.save(OmegaConf.create(words), target / ".hydra" / "overrides.yaml")
            execute(Plan.of(compose_config(rest)), target)
            made[tuple(rest)] = target
        return None

    # One task of each model: on stand-ins the others are the same runs.
    first = ",".join({next(iter(block.tasks)) for block in entry.blocks})
    words = [f"table={name}", "scale=smoke", f"only={first}", f"out={tmp_path}"]
    assert reproduce(Options.parse(words), run) == 0
    text = (tmp_path / name / "table.md").read_text()
    assert "NOT a reproduction" in text
    assert "smoke " in text
