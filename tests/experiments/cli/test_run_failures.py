"""Runs that fail: one sentence, exit status 2, and no result."""

import csv
import os
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from bilevel import BilevelEngine
from experiments.cli import places
from experiments.results import record, saved_model
from experiments.run import main


def test_failed_run_has_no_result(
    tmp_path: Path, quick: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(SystemExit) as stop:
        main([*quick, "train.lr=1000", f"hydra.run.dir={folder}"])
    assert stop.value.code == 2
    assert not (folder / "result.json").exists()
    text = capsys.readouterr().err.splitlines()[-1]
    assert "not finite" in text
    assert "step" in text
    assert "examples" in text
    assert "not finite" in (folder / "run.log").read_text()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["task.max_train=6"], "train.batch_size=8"),
        (["task.max_train=14"], "7 and 7, and train.batch_size=8"),
        (["method.rank=64"], "rank 64"),
        (["train.target_modules=[qwery]"], "'qwery'"),
        (["method.split=0.999"], "96 and 0, and train.batch_size=8"),
    ],
)
def test_wrong_sizes(
    tmp_path: Path,
    quick: list[str],
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    expected: str,
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*quick, *words, f"hydra.run.dir={tmp_path / 'run'}"])
    assert stop.value.code == 2
    assert expected in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_log_that_cannot_be_written(
    tmp_path: Path, quick: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a read-only folder that was begun; logging wraps what the disk said."""
    (tmp_path / "run.log").mkdir()
    with pytest.raises(SystemExit) as stop:
        main([*quick, f"hydra.run.dir={tmp_path}"])
    assert stop.value.code == 2
    text = capsys.readouterr().err.splitlines()[-1]
    assert text.startswith(f"error: cannot read or write {tmp_path / 'run.log'}: ")


@pytest.mark.usefixtures("kept")
def test_multirun_goes_on_after_a_failure(
    tmp_path: Path, quick: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-m", *quick, "method=lora", "method.rank=64,2", "train.max_steps=2"]
    with pytest.raises(SystemExit) as stop:
        main([*words, "run.figures=false", f"hydra.sweep.dir={tmp_path}"])
    assert stop.value.code == 2
    shown = capsys.readouterr().out
    assert "failed: " in shown
    assert len(list(tmp_path.rglob("result.json"))) == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(28, "No space left on device", "somewhere"), "somewhere: No space"),
        (OSError(30, "Read-only file system", "somewhere"), "somewhere: Read-only"),
        (torch.OutOfMemoryError("CUDA"), "lower train.batch_size"),
        (KeyboardInterrupt(), "run.resume="),
    ],
)
def test_what_is_nobodys_mistake(
    tmp_path: Path,
    quick: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    expected: str,
) -> None:
    def fails(*args: Any) -> None:
        raise error

    monkeypatch.setattr("experiments.figures.draw", fails)
    with pytest.raises(SystemExit) as stop:
        main([*quick, "train.max_steps=1", f"hydra.run.dir={tmp_path / 'run'}"])
    assert stop.value.code == (130 if isinstance(error, KeyboardInterrupt) else 2)
    assert expected in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.fixture
def sweep(quick: list[str], tmp_path: Path) -> list[str]:
    """A sweep over seeds into ``tmp_path``, without those."""
    short = ["method=lora", "train.max_steps=2", "task.max_test=8", "run.figures=false"]
    return ["-m", *quick, *short, f"hydra.sweep.dir={tmp_path}", "hydra.sweep.subdir=${seed}"]


@pytest.mark.usefixtures("kept")
def test_a_defect_in_one_run_of_a_sweep(
    tmp_path: Path,
    sweep: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = record.write

    def fails(folder: Path, values: dict[str, Any]) -> None:
        if values["seed"] == 1:
            raise ZeroDivisionError("by a defect")
        write(folder, values)

    monkeypatch.setattr(record, "write", fails)
    with pytest.raises(SystemExit) as stop:
        main([*sweep, "seed=0,1,2,4294967296"])
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert f"failed: {tmp_path / '1'} " in said.out
    assert f"failed: {tmp_path / '4294967296'} " in said.out
    assert "ZeroDivisionError: by a defect" in said.err
    assert "Traceback" not in said.err
    assert "Traceback" in (tmp_path / "1" / "run.log").read_text()
    assert "Traceback" not in (tmp_path / "4294967296" / "run.log").read_text()
    (row,) = csv.DictReader((tmp_path / "summary.csv").open())
    assert row["seeds"] == "2"


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_one_signal_ends_a_sweep(
    tmp_path: Path,
    sweep: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    status: int,
) -> None:
    train_step = BilevelEngine.train_step

    def interrupted(engine: BilevelEngine) -> None:
        train_step(engine)
        if "/1/" in str(engine.callbacks[-1].checkpointer.folder):  # type: ignore[attr-defined]
            os.kill(os.getpid(), number)

    monkeypatch.setattr(BilevelEngine, "train_step", interrupted)
    words = [*sweep, "seed=0,1,2"]
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == status
    said = capsys.readouterr()
    assert len(list((tmp_path / "1" / "checkpoints").glob("*-00000001.safetensors"))) == 1
    assert not (tmp_path / "2").exists()
    assert f"not finished: {tmp_path / '1'} " in said.out
    (row,) = csv.DictReader((tmp_path / "summary.csv").open())
    assert row["seeds"] == "1"
    monkeypatch.undo()
    hint = shlex.split(said.err.strip().splitlines()[-1].partition("continue with: ")[2])
    assert hint[:3] == ["python", "-m", "experiments.run"]
    main(hint[3:])
    assert len(list(tmp_path.rglob("result.json"))) == 3


@pytest.mark.parametrize("words", [["train.lr=fast"], ["task=sst2", "task.data_dir=/nowhere"]])
def test_no_run_of_a_sweep_can_begin(
    tmp_path: Path, sweep: list[str], capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*sweep, "seed=0,1", *words])
    assert stop.value.code == 2
    assert words[-1].rpartition("=")[2] in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_begins_in_no_folder_of_another(
    tmp_path: Path, sweep: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    used = tmp_path / "1"
    (used / ".hydra").mkdir(parents=True)
    (used / ".hydra" / "config.yaml").write_text("of the first\n")
    (used / "metrics.jsonl").touch()
    with pytest.raises(SystemExit):
        main([*sweep, "seed=0,1", "train.max_steps=1"])
    assert "holds a run already" in capsys.readouterr().err
    assert (used / ".hydra" / "config.yaml").read_text() == "of the first\n"
    assert not (tmp_path / "0").exists()


def in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run find that it cannot write its adapter, as on a disk that is full."""
    save = saved_model.save

    def save_first(outcome: Any, folder: Path) -> Any:
        if folder.name != "elsewhere" and folder.parent.name != "elsewhere":
            (folder / "adapter").touch()
        return save(outcome, folder)

    monkeypatch.setattr(saved_model, "save", save_first)


@pytest.mark.usefixtures("kept")
def test_an_adapter_that_cannot_be_written_is_not_lost(
    tmp_path: Path,
    quick: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "a run"
    words = [*quick, "method=lora", "train.max_steps=3", "task.max_test=8"]
    words.append(places.word("hydra.run.dir", folder))
    in_the_way(monkeypatch)
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "adapter" in said
    monkeypatch.undo()
    (folder / "adapter").unlink()
    hint = shlex.split(said.partition("continue with: ")[2])
    main(hint[3:])
    assert "goes on at step 3" in capsys.readouterr().err
    assert (folder / "result.json").is_file()


def test_what_was_trained_without_checkpoints_is_put_elsewhere(
    tmp_path: Path,
    quick: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere))
    in_the_way(monkeypatch)
    short = ["method=lora", "train.max_steps=1", "task.max_test=8", "engine.checkpoint_every=0"]
    with pytest.raises(SystemExit):
        main([*quick, *short, f"hydra.run.dir={folder}"])
    (found,) = elsewhere.iterdir()
    assert f"what was trained is in {found}" in capsys.readouterr().err.splitlines()[-1]
    assert (found / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    "words",
    [["hydra.run.dir={}/run"], ["hydra.run.dir={}"], ["-m", "seed=0,1", "hydra.sweep.dir={}/x"]],
)
def test_no_folder_can_be_made(
    words: list[str], tmp_path: Path, quick: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stop:
        main([*quick, *(word.format(tmp_path / "file") for word in words)])
    assert stop.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ")
    assert str(tmp_path / "file") in said
