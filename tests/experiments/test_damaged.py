"""Run folders with files that are cut, emptied, of another type or garbled: one sentence for each.

Every file that evaluate, export, report, figures and ``run.resume`` read is damaged in every way.
"""

import copy
import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

from bilevel.checkpoint.folder import Checkpointer
from bilevel.checkpoint.sums import SUMS, check_sums, seal
from bilevel.errors import UserError
from experiments import evaluate, export, figures, report
from experiments.cli import resume
from experiments.cli.command_line import CommandLine
from experiments.cli.writing import clean, write_atomically
from experiments.config.composition import compose_config
from experiments.config.instantiate import build
from experiments.config.plan import Plan
from experiments.models.spec import ModelSpec
from experiments.results import record, saved_model
from experiments.results.finished_run import SavedRun
from experiments.run import main
from experiments.tasks.task import Task
from experiments.training.finished_stages import Journal

OLDER = Path(__file__).parent / "older_runs"
GARBAGE = bytes(range(256)) * 4


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(OLDER / "finished", tmp_path / "finished"))


@pytest.fixture
def interrupted(tmp_path):
    return Path(shutil.copytree(OLDER / "interrupted", tmp_path / "interrupted"))


def without(key):
    """Take a key out of a JSON or YAML file."""

    def change(path):
        read, write = (yaml.safe_load, yaml.safe_dump) if path.suffix == ".yaml" else PLAIN
        values = read(path.read_text())
        *parents, last = key.split(".")
        node = values
        for parent in parents:
            node = node[parent]
        del node[last]
        path.write_text(write(values))

    return change


def put(key, value):
    """Put another value at a key of a JSON file."""

    def change(path):
        values = json.loads(path.read_text())
        *parents, last = key.split(".")
        node = values
        for parent in parents:
            node = node[parent]
        node[last] = value
        path.write_text(json.dumps(values))

    return change


PLAIN = (json.loads, json.dumps)
DAMAGES = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "garbled": lambda path: path.write_bytes(GARBAGE),
    "a list": lambda path: path.write_text("[1, 2]"),
    "an object of nothing": lambda path: path.write_text("{}"),
    "deep": lambda path: path.write_text("[" * 20000),
    "a surrogate": lambda path: path.write_text('{"x": "\\ud800"}'),
    "missing": lambda path: path.unlink(),
}
RESULT = [
    *map(without, ("method", "metrics", "test_loss", "seconds", "adapter_dir", "engine", "ranks")),
    put("metrics", []),
    put("metrics", {"accuracy": "high"}),
    put("metrics", {}),
    put("ranks", {"a": "b"}),
    put("seed", "zero"),
    put("train_loss", "low"),
    put("adapter_dir", "../../.."),
    put("adapter_dir", 7),
    put("engine", {"T1": "x", "steps": 3}),
    put("examples_seen", 5),
    put("true_ranks", [1]),
    put("schema_version", 99),
]
HYDRA = [
    *map(without, ("task", "model", "seed", "task._target_", "model._target_", "task.name")),
    lambda path: path.write_text(path.read_text().replace("seed: 0", "seed: x")),
]
ADAPTER = [
    *map(without, ("peft_type", "r")),
    put("peft_type", "NOTHING"),
    put("peft_type", 7),
    put("r", "x"),
    put("r", 10**9),
    put("target_modules", ["nothing"]),
    put("target_modules", 5),
    put("target_modules", "((a+)+)+$"),
    put("modules_to_save", [1]),
    put("task_type", "SOMETHING"),
    put("rank_pattern", {"x": "y"}),
    put("lora_alpha", None),
    put("megatron_config", {"a": 1}),
    put("bias", "some"),
]


FEW = ("cut", "a list", "missing")  # where a case takes half a second


def each(places, names=tuple(DAMAGES)):
    """Every damage to every file, and those that suit its keys."""
    cases = []
    for place, special in places.items():
        found = {name: DAMAGES[name] for name in names}
        found |= {f"change {i}": change for i, change in enumerate(special)}
        cases += [pytest.param(place, change, id=f"{place}-{n}") for n, change in found.items()]
    return cases


def sentence_of(body):
    """What a reader says: None if all is well, else one sentence that names something in there."""
    told = None
    try:
        body()
    except UserError as error:
        told = str(error)
    assert told is None or "\n" not in told
    return told


READ = {"result.json": RESULT, ".hydra/config.yaml": HYDRA}


@pytest.mark.parametrize(("place", "change"), each(READ))
def test_what_evaluate_and_export_read_of_a_run(place, change, folder):
    change(folder / place)

    def read():
        run = SavedRun.open(str(folder), CommandLine.parse([]), [])
        record.saved_folder(run.result, run.folder)
        build(run.config.task, "task", Task)
        build(run.config.model, "model", ModelSpec)

    said = sentence_of(read)
    if said is None:  # not read by these programs, or not needed; else its stages.json serves
        assert change in RESULT or change is DAMAGES["missing"] or change is HYDRA[5]
    else:
        assert (
            str(folder / place) in said
            or "_target_" in said
            or str(folder) in said
            or ("seed" in said)
        )


@pytest.fixture(scope="module")
def base():
    run = SavedRun.open(str(OLDER / "finished"), CommandLine.parse([]), [])
    return run.base(run.task()).model


@pytest.mark.parametrize(
    ("place", "change"), each({"adapter_config.json": ADAPTER, "adapter_model.safetensors": []})
)
def test_a_saved_adapter(place, change, folder, base):
    change(folder / "adapter" / place)
    said = sentence_of(lambda: saved_model.load(folder / "adapter", copy.deepcopy(base)))
    assert said is not None
    assert str(folder / "adapter") in said


@pytest.mark.parametrize("name", ["cut", "garbled", "missing"])
def test_a_sealed_adapter(name, folder, base):
    seal(folder / "adapter")
    DAMAGES[name](folder / "adapter" / "adapter_model.safetensors")
    with pytest.raises(UserError, match=SUMS):
        saved_model.load(folder / "adapter", copy.deepcopy(base))


def test_a_flipped_bit_is_noticed(folder, base, capsys):
    seal(folder / "adapter")
    seal(folder / "adapter_compact")
    assert saved_model.load(folder / "adapter", copy.deepcopy(base)) is not None
    for name in ("adapter", "adapter_compact"):
        path = folder / name / "adapter_model.safetensors"
        content = bytearray(path.read_bytes())
        content[-5] ^= 16
        path.write_bytes(content)
    for program, words in ((evaluate, []), (export, []), (export, ["merge=true"])):
        with pytest.raises(SystemExit, match="2"):
            program.main([f"run={folder}", *words])
        assert "adapter_model.safetensors is damaged" in capsys.readouterr().err


def test_a_tensor_that_is_missing_is_noticed(folder, base):
    path = folder / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "lora_B" in name)
    save_file({k: v for k, v in tensors.items() if k != name}, path, {"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 of"):
        saved_model.load(folder / "adapter", copy.deepcopy(base))


@pytest.mark.parametrize(
    ("place", "change"),
    each({"result.json": RESULT[::2], "metrics.jsonl": [], ".hydra/overrides.yaml": []}, FEW),
)
def test_figures_and_a_report_beside_a_good_run(place, change, folder, tmp_path, capsys, kept):
    good = Path(shutil.copytree(OLDER / "finished", tmp_path / "good"))
    values = json.loads((good / "result.json").read_text())
    (good / "result.json").write_text(json.dumps({**values, "seed": values["seed"] + 1}))
    change(folder / place)
    with suppress(SystemExit):
        figures.main([str(folder)])
    said = capsys.readouterr().err
    assert said == "" or (said.count("\n") == 1 and str(folder) in said)
    report.main([str(tmp_path)])
    said = capsys.readouterr()
    assert "autolora " in said.out
    assert "Traceback" not in said.err
    with open(tmp_path / "summary.csv") as file:
        seeds = [row["seeds"] for row in csv.DictReader(file)]
    assert seeds in (["2"], ["1"], ["1", "1"])
    if seeds == ["1"] and (folder / "result.json").is_file():
        assert f"passed over: {folder}" in said.err


METRICS = [
    lambda path: path.write_text(path.read_text() + "{]\n"),
    lambda path: path.write_text('{"stage": "search"}\n'),
    lambda path: path.write_text('{"stage": "search", "step": 1, "kind": "gates", "gates": 5}\n'),
    lambda path: path.write_text('{"stage": "s", "step": 1, "kind": "train", "lr": "x"}\n'),
]


@pytest.mark.parametrize("change", METRICS)
def test_lines_of_numbers(change, folder):
    change(folder / "metrics.jsonl")
    with pytest.raises(UserError, match=r"metrics\.jsonl, line \d+ is damaged"):
        figures.read_metrics(folder)


STAGES = [
    *map(without, ("config", "stages", "stages.search", "stages.search.outcome")),
    *map(without, ("stages.search.summary", "stages.search.summary.seconds")),
    put("stages", []),
    put("stages.search", 5),
    put("stages.search.summary.steps", "x"),
    put("stages.search.summary.warnings", 5),
    put("stages.search.summary.kept", "x"),
    put("config", "x"),
]
OVERRIDES = [
    lambda path: path.write_text("- 5\n"),
    lambda path: path.write_text("- 'a b = c'\n"),
]
RESUMED = {
    ".hydra/config.yaml": [],
    ".hydra/hydra.yaml": [without("hydra.runtime.choices"), without("hydra.runtime")],
    ".hydra/overrides.yaml": OVERRIDES,
    "checkpoints/stages.json": STAGES,
    "checkpoints/01-retrain-00000012.safetensors": [],
}


@pytest.mark.parametrize(("place", "change"), each(RESUMED, FEW))
def test_what_resuming_reads(place, change, interrupted):
    change(interrupted / place)

    def read():
        words = resume.expand(CommandLine.parse([f"run.resume={interrupted}"]))
        plan = Plan.of(compose_config(words))
        Journal(interrupted / "checkpoints" / "stages.json", plan.config, True)
        Checkpointer(interrupted / "checkpoints").latest()

    said = sentence_of(read)
    missing = change is DAMAGES["missing"] and place.startswith("checkpoints")
    fewer = place.endswith("overrides.yaml") and said is not None and "holds another run" in said
    assert (said is None) == (missing or change is STAGES[2])
    assert said is None or fewer or str(interrupted / place) in said or str(interrupted) in said


@pytest.mark.parametrize("outcome", [5, None, {}, {"ranks": 5}, {"ranks": {"a": "b"}}])
def test_what_a_stage_found_of_another_shape(outcome, interrupted, capsys):
    put("stages.search.outcome", outcome)(interrupted / "checkpoints/stages.json")
    with pytest.raises(SystemExit, match="2"):
        main([f"run.resume={interrupted}"])
    assert "stages.json is damaged" in capsys.readouterr().err


def test_a_stage_file_is_sealed(tmp_path):
    path = tmp_path / "checkpoints" / "stages.json"
    Journal(path, {"a": 1}, resume=False).finish("search", {"ranks": {"x": 3}}, None)
    assert Journal(path, {"a": 1}, resume=True).finished["search"]["outcome"]["ranks"] == {"x": 3}
    put("stages.search.outcome.ranks.x", 4)(path)
    with pytest.raises(UserError, match=r"stages\.json is damaged"):
        Journal(path, {"a": 1}, resume=True)


def test_unreadable_neighbours_are_passed_over(interrupted, monkeypatch, capsys):
    monkeypatch.chdir(interrupted.parent)
    words = yaml.safe_load((interrupted / ".hydra/overrides.yaml").read_text())
    for name, change in DAMAGES.items():  # those that come before it, newest first
        other = interrupted.parent / f"zz {name}"
        shutil.copytree(interrupted / ".hydra", other / ".hydra")
        change(other / ".hydra" / "hydra.yaml")
    (interrupted.parent / "zzz" / ".hydra").mkdir(parents=True)  # killed before its first file
    line = CommandLine.parse([*words, f"hydra.run.dir={interrupted.parent}/new", "run.resume=auto"])
    assert resume.expand(line)[-1] == f"hydra.run.dir={interrupted}"
    said = capsys.readouterr().err
    assert said.count("is passed over") == len(DAMAGES) + 1


@pytest.mark.parametrize("name", ["notes.txt", "checkpoints", "result.json", "adapter"])
def test_a_new_run_refuses_a_folder_with_something_in_it(name, tmp_path, quick, capsys):
    (tmp_path / name).mkdir()
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("theirs: 1\n")
    with pytest.raises(SystemExit, match="2"):
        main(["method=lora", *quick, f"hydra.run.dir={tmp_path}"])
    assert name in capsys.readouterr().err
    assert (tmp_path / ".hydra" / "config.yaml").read_text() == "theirs: 1\n"


def test_what_killed_writers_leave_is_cleaned(tmp_path):
    for place in ("", "checkpoints/", "figures/"):
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / f"{place}.result.json.123.tmp").write_text("half")
        (tmp_path / f"{place}.mine").write_text("mine")
    (tmp_path / "figures/.losses.9.tmp.png").write_text("half")
    clean(tmp_path)
    left = sorted(p.name for p in tmp_path.rglob("*") if p.is_file())
    assert left == [".mine"] * 3


def test_sums_are_those_of_sha256sum(tmp_path):
    (tmp_path / "a b").write_text("hello")
    seal(tmp_path)
    digest = hashlib.sha256(b"hello").hexdigest()
    assert (tmp_path / SUMS).read_text() == f"{digest}  a b\n"
    check_sums(tmp_path)
    (tmp_path / SUMS).write_text(f"{digest}  ../a b\n")
    with pytest.raises(UserError, match="no checksum"):
        check_sums(tmp_path)


def test_a_writer_takes_away_what_killed_ones_left(tmp_path):
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True
    )
    gone = tmp_path / f".summary.md.{int(dead.stdout)}.tmp"
    other = tmp_path / f".summary.md.{os.getppid()}.tmp"  # at work
    for path in (gone, other):
        path.write_text("half")
    write_atomically(tmp_path / "summary.md", "whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([other.name, "summary.md"])


def test_everything_saved_is_synced_before_the_result(tmp_path, quick, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda f: (synced.append(os.readlink(f"/proc/self/fd/{f}")), fsync(f))
    )
    main(
        [
            "method=lora",
            *quick,
            "train.epochs=1",
            "run.figures=false",
            f"hydra.run.dir={tmp_path}/run",
        ]
    )
    folder = tmp_path / "run"
    end = next(i for i, name in enumerate(synced) if ".result.json" in name)
    for name in ("adapter", "adapter_compact"):
        files = [str(path) for path in (folder / name).iterdir() if path.name != "README.md"]
        assert len(files) >= 3
        # written aside, and renamed
        assert any(path.startswith(f"{folder / name}/.README.md") for path in synced[:end])
        for path in (*files, str(folder / name), str(folder)):
            assert path in synced[:end]
        check_sums(folder / name)
