"""Runs killed by SIGKILL and resumed end as those left alone, bit for bit."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bilevel.errors import UserError
from experiments.cli import resume
from experiments.run import main

# (module, class or None, function, n-th call, whether the call is done before the kill); the search
# has 3 steps (of two lower and one upper each), the retraining 12, with a checkpoint every second.
POINTS: dict[str, tuple[str, str | None, str, int, bool]] = {
    "before the first checkpoint": ("bilevel.engine", "BilevelEngine", "train_step", 1, True),
    "in the search": ("bilevel.engine", "BilevelEngine", "train_step", 3, True),
    "in a lower step": ("bilevel.problem", "BilevelProblem", "optimizer_step", 8, False),
    "while saving": ("bilevel.checkpoint.state_file", None, "sync", 2, False),
    "in an evaluation": ("experiments.training.callbacks", None, "score", 1, True),
    "after the search's last step": (
        "experiments.training.callbacks",
        "Evaluation",
        "finish",
        1,
        True,
    ),
    "before the journal": ("experiments.training.finished_stages", "Journal", "finish", 1, False),
    "between the stages": ("experiments.training.finished_stages", "Journal", "finish", 1, True),
    "in the retraining, early": ("bilevel.engine", "BilevelEngine", "train_step", 6, True),
    "in the retraining, late": ("bilevel.engine", "BilevelEngine", "train_step", 12, True),
    "before the export": ("experiments.results.saved_model", None, "save", 1, False),
    "before the result": ("experiments.results.record", None, "write", 1, False),
}


def killed_at(point: tuple[str, str | None, str, int, bool], words: list[str]) -> None:
    """Run the program in a child process that kills itself (SIGKILL) at a point."""
    module, cls, function, nth, done = point
    child = os.fork()
    if child == 0:
        owner: Any = importlib.import_module(module)
        owner = getattr(owner, cls) if cls else owner
        original: Callable[..., Any] = getattr(owner, function)
        calls = 0

        def deadly(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            result = original(*args, **kwargs) if calls < nth or done else None
            if calls == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(owner, function, deadly)
        try:
            main(words)
        finally:
            os._exit(1)  # not killed: the point was never reached
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


def traces(folder: Path) -> dict[str, Any]:
    """All that a run leaves, without times and places."""
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((folder / "result.json").read_text())
    for key in ("seconds", "processor_seconds", "peak_memory_mib", "adapter_dir"):
        del result[key]
    weights = {
        layout: (folder / layout / "adapter_model.safetensors").read_bytes()
        for layout in ("adapter", "adapter_compact")
    }
    return {
        "metrics": [{k: v for k, v in x.items() if k != "seconds"} for x in lines],
        "result": result,
        **weights,
    }


@pytest.fixture(scope="module")
def words(quick: list[str]) -> list[str]:
    short = ["train.epochs=1", "engine.checkpoint_every=2", "run.figures=false"]
    short.append("engine.evaluate_test=true")  # so that there are evaluations
    return [*quick, *short, "hypergradient=unrolled", "method.unroll_steps=2"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    main([*words, f"hydra.run.dir={folder}"])
    return traces(folder)


@pytest.mark.parametrize("point", POINTS)
def test_killed_and_resumed(
    point: str, tmp_path: Path, words: list[str], undisturbed: dict[str, Any]
) -> None:
    folder = tmp_path / "run"
    killed_at(POINTS[point], [*words, f"hydra.run.dir={folder}"])
    assert not (folder / "result.json").exists()
    main([f"run.resume={folder}"])
    assert traces(folder) == undisturbed


def test_killed_twice(tmp_path: Path, words: list[str], undisturbed: dict[str, Any]) -> None:
    folder = tmp_path / "run"
    killed_at(POINTS["in the search"], [*words, f"hydra.run.dir={folder}"])
    killed_at(POINTS["in the search"], [f"run.resume={folder}"])
    main([f"run.resume={folder}"])
    assert traces(folder) == undisturbed


def test_damaged_checkpoint(
    tmp_path: Path, words: list[str], undisturbed: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    killed_at(POINTS["in the retraining, late"], [*words, f"hydra.run.dir={folder}"])
    newest = max((folder / "checkpoints").glob("*.safetensors"))
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    main([f"run.resume={folder}"])
    assert newest.name in (folder / "run.log").read_text()
    assert traces(folder) == undisturbed


def test_an_option_newer_than_the_run_is_null_for_it(tmp_path: Path) -> None:
    old, new = {"train": {"epochs": 1}}, {"train": {"epochs": 1, "warmup_steps": None}}
    resume.check_same(tmp_path, old, new)
    new["train"]["warmup_steps"] = 3
    with pytest.raises(UserError, match="warmup_steps"):
        resume.check_same(tmp_path, old, new)


@pytest.mark.slow
def test_killed_from_outside(tmp_path: Path, words: list[str], undisturbed: dict[str, Any]) -> None:
    folder = tmp_path / "run"
    for least, more in ((3, []), (10, [f"run.resume={folder}"])):
        given = more or [*words, f"hydra.run.dir={folder}"]
        process = subprocess.Popen([sys.executable, "-m", "experiments.run", *given])
        metrics = folder / "metrics.jsonl"
        while not metrics.exists() or len(metrics.read_text().splitlines()) < least:
            assert process.poll() is None
            time.sleep(0.002)
        process.kill()
        process.wait()
    main([f"run.resume={folder}"])
    assert traces(folder) == undisturbed


def test_auto_takes_the_newest_unfinished(
    tmp_path: Path,
    words: list[str],
    undisturbed: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    killed_at(POINTS["in the search"], words)
    (folder,) = (tmp_path / "outputs" / "autolora" / "demo").iterdir()
    main([*words, "seed=1", "run.resume=auto", "train.max_steps=1"])  # not that one: a new run
    assert not (folder / "result.json").exists()
    main([*words, "run.resume=auto"])
    assert traces(folder) == undisturbed
    assert len(list(folder.parent.iterdir())) == 2


def test_auto_in_a_multirun(tmp_path: Path, words: list[str], undisturbed: dict[str, Any]) -> None:
    sweep = ["-m", *words, f"hydra.sweep.dir={tmp_path}", "hydra.sweep.subdir=${seed}"]
    killed_at(POINTS["in the retraining, early"], [*sweep, "seed=0"])
    main([*sweep, "seed=0", "run.resume=auto"])
    assert traces(tmp_path / "0") == undisturbed


def test_finished_runs_are_not_run_again(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    main([*words, "train.max_steps=1", f"hydra.run.dir={folder}"])
    before = (folder / "result.json").stat().st_mtime_ns
    main([f"run.resume={folder}"])
    assert (folder / "result.json").stat().st_mtime_ns == before


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> Path:
    """Folder of a killed run, which a refusal leaves as it is."""
    folder = tmp_path_factory.mktemp("unfinished") / "run"
    killed_at(POINTS["before the first checkpoint"], [*words, f"hydra.run.dir={folder}"])
    return folder


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (["seed=1"], ["seed (0 there, 1 here)"]),
        (["method=lora"], ["method (autolora there, lora here)"]),
        (["task=sst2"], ["task (demo there, sst2 here)"]),
        (["hypergradient=none"], ["hypergradient (unrolled there, none here)"]),
        (["train.batch_size=4", "method.rank=2"], ["method.rank", "train.batch_size (8 there, 4"]),
    ],
)
def test_folder_of_another_run(
    unfinished: Path,
    capsys: pytest.CaptureFixture[str],
    changed: list[str],
    expected: list[str],
) -> None:
    before = (unfinished / ".hydra" / "config.yaml").read_text()
    with pytest.raises(SystemExit) as stop:
        main([*changed, f"run.resume={unfinished}"])
    assert stop.value.code == 2
    text = capsys.readouterr().err
    assert "another run" in text
    for part in expected:
        assert part in text
    assert (unfinished / ".hydra" / "config.yaml").read_text() == before


def sentences(folder: Path, rows: int) -> None:
    """Files of a data folder."""
    folder.mkdir()
    for split in ("train", "test"):
        lines = [f"the room was {('cosy', 'dull')[i % 2]} {i},{'ab'[i % 2]}" for i in range(rows)]
        (folder / f"{split}.csv").write_text("\n".join(["text,label", *lines, ""]))


def test_what_a_run_began_with_may_have_been_moved(
    tmp_path: Path, tiny: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    sentences(old / "data", 48)
    shutil.copytree(tiny, old / "model")
    own = [word for word in words if not word.startswith(("task", "model"))]
    own += ["task=classification", f"task.data_dir={old / 'data'}", "task.text_columns=[text]"]
    own += ["model=hub", f"model.pretrained={old / 'model'}"]
    plain = [word for word in own if "unroll" not in word]
    main([*plain, "method=lora", f"hydra.run.dir={old / 'first'}"])
    own.append(f"model.warm_start={old / 'first'}")
    main([*own, f"hydra.run.dir={tmp_path / 'left_alone'}"])
    folder = tmp_path / "run"
    killed_at(POINTS["in the retraining, early"], [*own, f"hydra.run.dir={folder}"])
    old.rename(new)
    given = [f"run.resume={folder}", f"task.data_dir={new / 'data'}"]
    given += [f"model.pretrained={new / 'model'}", f"model.warm_start={new / 'first'}"]
    before = {path: path.read_text() for path in (folder / ".hydra").iterdir()}

    def refused(*words: str) -> str:
        with pytest.raises(SystemExit):
            main([*given, *words])
        assert {path: path.read_text() for path in (folder / ".hydra").iterdir()} == before
        return capsys.readouterr().err

    sentences(new / "others", 48)
    with open(new / "others" / "train.csv", "a") as file:
        file.write("a cosy view,a\n")
    assert "the examples of train are not" in refused(f"task.data_dir={new / 'others'}")
    (new / "others" / "train.csv").write_text((new / "data" / "train.csv").read_text())
    shutil.copy(new / "data" / "test.csv", new / "others" / "validation.csv")
    assert "the examples of validation are" in refused(f"task.data_dir={new / 'others'}")
    assert "model.pretrained" in refused("model.pretrained=prajjwal1/bert-tiny")
    main(given)
    one, other = traces(folder), traces(tmp_path / "left_alone")
    for key in ("configuration", "model", "warm_start"):  # which name the places
        del one["result"][key], other["result"][key]
    assert one == other


def test_an_older_run_is_known_by_its_places(tmp_path: Path) -> None:
    saved, asked = ({"task": {"data_dir": place}} for place in ("there", "here"))
    some = ({"train": "a", "validation": "b", "sources": "c"}, {"test": "a", "validation": "b"})
    for sums in ({}, *some):
        with pytest.raises(UserError, match=r"task\.data_dir \(there there, here here\)"):
            resume.check_same(tmp_path, saved, asked, sums=sums)
    resume.check_same(tmp_path, saved, asked, sums={"train": "a", "test": "b"})


def test_a_run_at_work_is_left_alone(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    killed_at(POINTS["in the search"], [*words, f"hydra.run.dir={folder}"])
    with resume.exclusive(folder), pytest.raises(SystemExit):
        main([f"run.resume={folder}"])
    assert "another process" in capsys.readouterr().err
