"""Making a table: what runs, what is left, what a failure and an interruption do."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf

from experiments import reproduce as program
from experiments.cli.command_line import FAILURE
from experiments.reproduce import Reproduction, reproduce
from experiments.reproduction import runner
from experiments.reproduction.entries import load
from experiments.reproduction.options import Options

ENTRY = """
paper: A paper
number: Table 1
title: two tasks
seeds: [0, 1]
unknown: [the epochs]
blocks:
  - model: roberta-base
    average: true
    settings: {train.batch_size: 10, train.epochs: 2}
    tasks:
      cola:
      stsb: {columns: {Spearman: {metric: spearman, factor: 100}}}
    rows:
      LoRA: {method: lora, settings: {method.rank: 4}}
      AutoLoRA: {method: autolora, tasks: {cola: {method.rank: 6}}}
      PreLayer: {not_run: nobody wrote it}
    published:
      - {row: LoRA, confidence: recalled, source: remembered, params: 0.4M, values: {Spearman: 90.0}}
      - {row: LoRA, confidence: verified, source: its table, params: 0.3M, values: {cola: [63.4, 1.2], avg: 77.0}}
      - {row: AutoLoRA, confidence: recalled, source: remembered, params: 0.2M, values: {cola: 61.3}}
      - {row: PreLayer, confidence: third_party, source: a review, values: {cola: 50.0}}
"""  # noqa: E501


@pytest.fixture(autouse=True)
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: list[Figure]) -> None:
    """One entry, paper/one, and an empty folder to work in; figures are not painted."""
    root = tmp_path / "entries"  # not "conf": it would hide the package from a process started here
    (root / "paper").mkdir(parents=True)
    (root / "paper" / "one.yaml").write_text(ENTRY)
    monkeypatch.setattr("experiments.reproduction.entries.folder", lambda: root)
    monkeypatch.chdir(tmp_path)


def settings(words: list[str]) -> dict[str, str]:
    return {key: value for key, _, value in (word.partition("=") for word in words)}


def begin(words: list[str]) -> Path:
    """What a run leaves behind as soon as it trains."""
    folder = Path(settings(words)["hydra.run.dir"])
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create({}), folder / ".hydra" / "config.yaml")
    OmegaConf.save(OmegaConf.create(words), folder / ".hydra" / "overrides.yaml")
    (folder / "metrics.jsonl").write_text("")
    return folder


class Stub:
    """Plays the runs: writes a result in no time, unless told to fail or to be interrupted."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.failing: Callable[[dict[str, str]], str | None] = lambda given: None
        self.interrupt_at: int | None = None

    def __call__(self, words: list[str]) -> str | None:
        self.calls.append(words)
        folder = begin(words)
        if len(self.calls) == self.interrupt_at:
            raise KeyboardInterrupt
        given = settings(words)
        if reason := self.failing(given):
            return reason
        (folder / "result.json").write_text(json.dumps(result(given)))
        return None


def result(given: dict[str, str]) -> dict[str, Any]:
    seed = int(given["seed"])
    cola = given["task"] == "cola"
    return {
        "schema_version": 1,
        "method": given["method"],
        "task": given["task"],
        "model": given["model"],
        "seed": seed,
        "metrics": {"matthews": 0.5 + seed / 10} if cola else {"pearson": 0.7, "spearman": 0.8},
        "primary_metric": "matthews" if cola else "pearson",
        "train_loss": 0.1,
        "validation_loss": 0.3,
        "test_loss": 0.2,
        "ranks": None,
        "update": None,
        "planted": None,
        "trainable_parameters": 10,
        "adapter_parameters": 8,
        "head_parameters": 2,
        "data": {"train": 100, "test": 10},
        "examples_seen": {"lower": 200, "upper": 0},
        "seconds": {"train": 40.0},
        "processor_seconds": {"train": 40.0},
        "peak_memory_mib": 1.0,
    }


def work(stub: Stub, *words: str) -> Reproduction:
    return Reproduction(load("paper/one"), Options.parse(["table=paper/one", *words]), stub)


def test_counts_and_time_come_first(capsys: pytest.CaptureFixture[str]) -> None:
    stub = Stub()
    text = work(stub).summary()
    assert "A paper, Table 1: two tasks" in text
    assert "8 runs, 0 finished, 8 to do: time unknown until the first run" in text
    assert "unknown: the epochs" in text
    assert reproduce(Options.parse(["table=paper/one", "dry_run=true"]), stub) == 0
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("python -m ")]
    assert len(lines) == 8
    assert not stub.calls
    assert not Path("outputs").exists()


def test_the_rate_is_that_of_finished_runs_of_the_same_kind() -> None:
    stub = Stub()
    assert reproduce(Options.parse(["table=paper/one", "seeds=0", "only=lora"]), stub) == 0
    # 100 examples twice by 10 are 20 steps in 40 s; the other seed of both tasks has 20 steps too.
    assert "about 1.3 minutes for 2 of them, unknown for the rest" in work(stub).summary()
    assert "2 runs, 0 finished, 2 to do: about 1.3 minutes" not in work(stub, "seeds=1").summary()


def test_commands_carry_the_settings_the_later_over_the_earlier() -> None:
    stub = Stub()
    reproduce(Options.parse(["table=paper/one", "only=autolora", "train.epochs=7"]), stub)
    given = settings(stub.calls[0])
    assert given["task"] == "cola"
    assert (given["method.rank"], given["train.epochs"]) == ("6", "7")
    assert "run.resume" not in given
    assert "method.rank" not in settings(stub.calls[2])


def test_only_missing_runs_are_made() -> None:
    stub = Stub()
    reproduce(Options.parse(["table=paper/one", "only=cola"]), stub)
    assert len(stub.calls) == 4
    assert reproduce(Options.parse(["table=paper/one"]), stub) == 0
    assert len(stub.calls) == 8
    assert len({tuple(call) for call in stub.calls}) == 8
    assert reproduce(Options.parse(["table=paper/one"]), stub) == 0
    assert len(stub.calls) == 8


def test_the_table_has_ours_beside_theirs(capsys: pytest.CaptureFixture[str]) -> None:
    reproduce(Options.parse(["table=paper/one"]), Stub())
    text = Path("outputs/reproduce/paper/one/table.md").read_text()
    assert text.strip() in capsys.readouterr().out
    rows = [[cell.strip() for cell in x.split("|")[1:-1]] for x in text.splitlines() if "|" in x]
    assert rows[0] == ["", "", "parameters", "cola", "Spearman", "avg"]
    assert rows[2][1:] == ["ours", "", "55.00 ± 7.07", "80.00 ± 0.00", "67.50"]
    # of two sizes the surest; what is recalled says so, a size as well as a score
    assert rows[3][1:] == ["paper", "0.3M", "63.4 ± 1.2", "(recalled) 90", "77"]
    assert rows[5][1:] == ["paper", "(recalled) 0.2M", "(recalled) 61.3", "-", "-"]
    assert rows[6][:2] == ["PreLayer", "not run"]
    assert rows[7][3] == "(third party) 50"
    assert "PreLayer is not run: nobody wrote it" in text
    with open("outputs/reproduce/paper/one/table.csv") as file:
        first = next(csv.DictReader(file))
    assert (first["ours_mean"], first["seeds"], first["confidence"]) == ("55.0", "2", "verified")


def test_seeds_without_a_score_are_not_counted() -> None:
    """METEOR is null where there was no Java."""
    stub = Stub()
    reproduce(Options.parse(["table=paper/one", "only=lora", "only=cola"]), stub)

    def without_score(call: list[str]) -> str:
        path = Path(settings(call)["hydra.run.dir"]) / "result.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"metrics": {"matthews": None}}))
        return work(stub, "only=lora", "only=cola").write()

    assert "| 50.00 (1 of 2 seeds) " in without_score(stub.calls[1])
    assert "| n/a " in without_score(stub.calls[0])  # finished, unlike "-"


def test_a_column_may_be_what_another_program_left_in_the_runs_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As experiments.style_transfer does; n/a until it has."""
    column = "{metric: spearman, factor: 100}"
    other = "{file: yelp/result.json, metric: transfers.overall.accuracy, factor: 100}"
    path = tmp_path / "entries" / "paper" / "one.yaml"
    path.write_text(ENTRY.replace(column, other))
    stub = Stub()
    words = ("only=lora", "only=stsb")
    work(stub, *words).make()
    line = next(x for x in work(stub, *words).write().splitlines() if x.startswith("| LoRA"))
    assert [x.strip() for x in line.split("|")][5] == "n/a"
    for seed, share in enumerate((0.5, 0.7)):
        folder = Path(f"outputs/reproduce/paper/one/roberta-base_LoRA_stsb_seed{seed}/yelp")
        folder.mkdir()
        values = {"transfers": {"overall": {"accuracy": share}}}
        (folder / "result.json").write_text(json.dumps(values))
    line = next(x for x in work(stub, *words).write().splitlines() if x.startswith("| LoRA"))
    assert [x.strip() for x in line.split("|")][5] == "60.00 ± 14.14"
    for damaged in ('{"transfers"', "[]", '{"transfers": {"overall": {"accuracy": "x"}}}'):
        (folder / "result.json").write_text(damaged)
        line = next(x for x in work(stub, *words).write().splitlines() if x.startswith("| LoRA"))
        assert [x.strip() for x in line.split("|")][5].startswith("50.00")
        assert "passed over: " in capsys.readouterr().err


def test_points_of_a_grid_have_lines_of_their_own(kept: list[Figure]) -> None:
    path = Path("entries/paper/one.yaml")
    grid = "{method: lora_grid, grid: {method.rank: [2, 3]}}"
    path.write_text(ENTRY.replace("{method: lora, settings: {method.rank: 4}}", grid))
    reproduce(Options.parse(["table=paper/one", "only=cola"]), Stub())
    (axes, *_) = kept[0].axes
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == ["AutoLoRA", "LoRA method.rank=2", "LoRA method.rank=3"]


def test_the_table_tells_learning_rates_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "entries" / "paper" / "one.yaml"
    path.write_text(ENTRY.replace("method: lora,", "method: full,").replace("method.rank: 4", ""))
    reproduce(Options.parse(["table=paper/one"]), Stub())
    text = Path("outputs/reproduce/paper/one/table.md").read_text()
    assert "- learning rates of their own have LoRA 2e-05 (roberta-base)" in text


def test_a_failing_run_is_told_and_the_others_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    stub = Stub()
    stub.failing = lambda given: (
        "the accelerator is out of memory" if given["method"] == "lora" else None
    )
    assert reproduce(Options.parse(["table=paper/one", "seeds=0"]), stub) == FAILURE
    assert len(stub.calls) == 4
    text = Path("outputs/reproduce/paper/one/table.md").read_text()
    assert text.count("| failed") == 2
    told = capsys.readouterr().err.splitlines()
    assert told[0] == (
        "failed: LoRA on cola, roberta-base, seed 0: the accelerator is out of memory"
    )
    stub.failing = lambda given: None
    assert reproduce(Options.parse(["table=paper/one", "seeds=0"]), stub) == 0
    assert all("run.resume" in settings(call) for call in stub.calls[4:])
    assert "failed" not in Path("outputs/reproduce/paper/one/table.md").read_text()


def test_after_an_interruption_the_run_goes_on() -> None:
    stub = Stub()
    stub.interrupt_at = 3
    with pytest.raises(SystemExit) as stop:
        reproduce(Options.parse(["table=paper/one"]), stub)
    assert stop.value.code == 130
    assert "(1 of 2 seeds)" not in Path("outputs/reproduce/paper/one/table.md").read_text()
    stub.interrupt_at = None
    reproduce(Options.parse(["table=paper/one"]), stub)
    assert len(stub.calls) == 9
    folder = settings(stub.calls[2])["hydra.run.dir"]
    assert stub.calls[3] == [*stub.calls[2], f"run.resume={folder}"]
    assert all("run.resume" not in settings(call) for call in stub.calls[4:])


def test_a_run_that_never_trained_starts_afresh() -> None:
    stub = Stub()
    folder = begin(work(stub).missing()[0].words())
    (folder / "metrics.jsonl").unlink()
    assert "run.resume" not in settings(work(stub).missing()[0].words())


def test_runs_of_other_settings_are_not_taken() -> None:
    stub = Stub()
    reproduce(Options.parse(["table=paper/one", "only=LoRA", "only=cola", "seeds=0"]), stub)
    words = ["table=paper/one", "only=LoRA", "only=cola", "seeds=0", "train.max_steps=5"]
    again = Reproduction(load("paper/one"), Options.parse(words), stub)
    assert again.missing() == []
    ((_, reason),) = again.failed.values()
    assert "train.max_steps (not given there, 5 here)" in reason
    assert "out=DIR" in reason


def test_missing_data_is_a_sentence_and_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    Path("data/cola").mkdir(parents=True)
    stub = Stub()
    words = ["table=paper/one", "data=data", "seeds=0", "only=lora"]
    assert reproduce(Options.parse(words), stub) == FAILURE
    assert [settings(call)["task.data_dir"] for call in stub.calls] == ["data/cola"]
    assert "there is no folder data/stsb with the data of stsb" in capsys.readouterr().err


def test_other_folders_of_data() -> None:
    words = ["table=paper/one", "data=/d/glue_{task}", "data.stsb=/e", "only=lora", "seeds=0"]
    cells = Reproduction(load("paper/one"), Options.parse(words), Stub()).cells
    assert [cell.settings["task.data_dir"] for cell in cells] == ["/d/glue_cola", "/e"]


def test_smoke_is_labelled_everywhere() -> None:
    stub = Stub()
    assert reproduce(Options.parse(["table=paper/one", "scale=smoke"]), stub) == 0
    assert len(stub.calls) == 4  # of one seed
    given = settings(stub.calls[0])
    assert (given["task"], given["model"]) == ("demo", "demo")
    assert given["method.rank"] == "4"
    assert "train.epochs" not in given
    folder = Path("outputs/reproduce_smoke/paper/one")
    text = (folder / "table.md").read_text()
    assert "NOT a reproduction" in text
    assert "smoke 70.00" in text
    assert "smoke,roberta-base" in (folder / "table.csv").read_text()
    assert not Path("outputs/reproduce").exists()


def test_a_launcher_makes_what_is_missing_together(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stub = Stub()
    words = ["table=paper/one", "seeds=0"]
    reproduce(Options.parse([*words, "only=LoRA", "only=cola"]), stub)
    made: list[tuple[str, str | None]] = []

    def job(config: DictConfig, *, tie: object) -> float:
        hydra = HydraConfig.get()
        folder = Path(hydra.runtime.output_dir)
        choices = hydra.runtime.choices
        given = {"method": choices.method, "task": choices.task, "model": choices.model}
        made.append((str(folder.relative_to(Path.cwd())), config.run.resume))
        if given["method"] == "autolora":
            (folder / "run.log").write_text("10:00 ERROR x: error: no data\n")
            return math.nan
        values = result({**given, "seed": str(config.seed)})
        (folder / "result.json").write_text(json.dumps(values))
        return 0.5

    monkeypatch.setattr("experiments.run.job", job)
    words.append("hydra/launcher=basic")
    work = Reproduction(load("paper/one"), Options.parse(words), stub)
    wanted = [str(cell.folder) for cell in work.missing()]
    work.make()
    assert len(stub.calls) == 1  # none in a process of its own
    assert [folder for folder, _ in made] == wanted
    assert {resume for _, resume in made} == {"auto"}
    assert len(work.finished) == 2
    assert {reason for _, reason in work.failed.values()} == {"no data"}
    assert "no data" in capsys.readouterr().out
    again = Reproduction(load("paper/one"), Options.parse(words), stub)
    assert [len(again.finished), len(again.missing())] == [2, 2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table=paper/one", "hydra.launcher.n_jobs=2"], "hydra/launcher=NAME"),
        (["table=paper/oen"], "'paper/one'"),
        ([], "table=list"),
        (["table=paper/one", "tabel=x"], "'table'"),
        (["table=paper/one", "seeds=a"], "seeds"),
        (["table=paper/one", "only=colla"], "'cola'"),
        (["table=paper/one", "only=cola", "only=stsb"], "only"),
        (["table=paper/one", "scale=big"], "full, smoke"),
        (["table=paper/one", "task.data_dir=x"], "data=DIR"),
        (["table=paper/one", "hydra.run.dir=x"], "out=DIR"),
        (["table"], "name=value"),
    ],
)
def test_slips_end_in_a_sentence(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        program.main(words)
    assert stop.value.code == FAILURE
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_the_last_error_of_a_process_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    assert runner.run(["method=lorra"]).startswith("unknown method")  # type: ignore[union-attr]
