"""Tables whose MRPC, RTE and STS-B start from MNLI: what starts from what, in which order."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from bilevel.errors import UserError
from experiments.cli.command_line import FAILURE
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.reproduce import Reproduction, reproduce
from experiments.reproduction.cells import Cell
from experiments.reproduction.entries import load
from experiments.reproduction.options import Options
from experiments.reproduction.planning import plan
from experiments.training.job import execute

WARM = "warm_start=mnli"


def cells(table: str, *words: str) -> list[Cell]:
    return plan(load(table), Options.parse([f"table={table}", *words]))


def test_each_starts_from_the_mnli_run_of_its_row_model_and_seed() -> None:
    found = cells("bilora/glue", WARM)
    places = {cell.folder: number for number, cell in enumerate(found)}
    assert len(places) == len(found) == len(cells("bilora/glue"))
    starting = [cell for cell in found if cell.start is not None]
    assert {cell.task for cell in starting} == {"mrpc", "rte", "stsb"}
    for cell in starting:
        assert cell.start is not None
        assert places[cell.start.folder] < places[cell.folder]
        assert (cell.start.task, cell.start.start) == ("mnli", None)
        assert (cell.start.row, cell.start.seed) == (cell.row, cell.seed)
        assert cell.start.block is cell.block
        assert cell.settings["model.warm_start"] == str(cell.start.folder)
        assert cell.label.endswith("from mnli")


def test_it_is_off_by_default_and_in_other_folders() -> None:
    cold, warm = cells("bilora/glue"), cells("bilora/glue", WARM)
    assert not any("model.warm_start" in cell.settings for cell in cold)
    started = {cell.folder for cell in warm if cell.start is not None}
    assert not started & {cell.folder for cell in cold}
    assert all(folder.name.endswith("_from-mnli") for folder in started)
    # The others are the same runs.
    assert {c.folder for c in warm} - started <= {c.folder for c in cold}


def test_what_leaves_nothing_to_merge_starts_from_the_pretrained_model() -> None:
    found = cells("bilora/glue", WARM, "only=Adapter-H*", "only=rte")
    assert found
    assert all(cell.start is None for cell in found)


def test_the_run_to_start_from_comes_with_the_one_asked_for() -> None:
    found = cells("bilora/glue", WARM, "only=rte", "only=BiLoRA", "only=roberta-base", "seeds=3")
    assert [(cell.task, cell.seed) for cell in found] == [("mnli", 3), ("rte", 3)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table=bilora/deberta_xxl", WARM], "no MNLI run .*mrpc"),
        (["table=delta_lora/e2e", WARM], "no run .*MRPC"),
        (["table=bilora/glue", "warm_start=qnli"], "none, mnli"),
        (
            ["table=bilora/glue", WARM, "model.warm_start=x"],
            "model.warm_start.*both",
        ),
    ],
)
def test_slips_are_told(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Reproduction(load(words[0].partition("=")[2]), Options.parse(words))


def runs(made: list[dict[str, str]]) -> Callable[[list[str]], str | None]:
    """Makes real runs in this process, and notes their words."""

    def run(words: list[str]) -> str | None:
        given = {key: value for key, _, value in (word.partition("=") for word in words)}
        made.append(given)
        folder = Path(given.pop("hydra.run.dir"))
        (folder / ".hydra").mkdir(parents=True)
        OmegaConf.save(OmegaConf.create(words), folder / ".hydra" / "overrides.yaml")
        execute(Plan.of(compose_config([f"{k}={v}" for k, v in given.items()])), folder)
        return None

    return run


def test_real_runs_on_stand_ins(tmp_path: Path) -> None:
    made: list[dict[str, str]] = []
    words = ["table=bilora/glue", "scale=smoke", WARM, "only=rte", "only=LoRA"]
    words += ["only=roberta-base", f"out={tmp_path}", "run.figures=false"]
    words += ["train.max_steps=2", "task.max_test=16"]
    assert reproduce(Options.parse(words), runs(made)) == 0
    assert ["model.warm_start" in given for given in made] == [False, True]
    (folder,) = (tmp_path / "bilora" / "glue").glob("*_from-mnli")
    result = json.loads((folder / "result.json").read_text())
    assert result["warm_start"]["run"] == made[1]["model.warm_start"]
    text = (tmp_path / "bilora" / "glue" / "from-mnli" / "table.md").read_text()
    assert "MRPC, RTE and STS-B start from the MNLI run" in text
    assert not (tmp_path / "bilora" / "glue" / "table.md").exists()
    # Finished runs stay, in whatever words their place is told.
    again = [word.replace(str(tmp_path), f"{tmp_path}/../{tmp_path.name}") for word in words]
    assert reproduce(Options.parse(again), runs(made)) == 0
    assert len(made) == 2
    # What they started from may go; one that has begun goes on from what it started from then.
    shutil.rmtree(made[1]["model.warm_start"])
    table = load("bilora/glue")
    assert Reproduction(table, Options.parse(words)).missing() == []
    (folder / "result.json").unlink()
    (folder / ".hydra" / "config.yaml").write_text("")
    (*_, cell) = Reproduction(table, Options.parse(again)).missing()
    assert any(word.startswith("run.resume=") for word in cell.words())
    assert not any(word.startswith("model.warm_start=") for word in cell.words())


def test_nothing_starts_from_a_run_that_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[list[str]] = []

    def fails(words: list[str]) -> str:
        called.append(words)
        return "out of memory"

    words = ["table=bilora/glue", WARM, "only=rte", "only=LoRA", "seeds=0", f"out={tmp_path}"]
    assert reproduce(Options.parse([*words, "only=roberta-base"]), fails) == FAILURE
    assert len(called) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[1].endswith(
        "the run that it starts from is not finished: LoRA on mnli, roberta-base, seed 0"
    )
