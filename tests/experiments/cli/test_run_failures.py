"""Runs that fail: one sentence, exit status 2, and no result."""

from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.run import main


def test_failed_run_has_no_result(
    tmp_path: Path, quick: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(SystemExit) as stop:
        main([*quick, "train.lr=1e30", f"hydra.run.dir={folder}"])
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
        (OSError(28, "No space left on device", "somewhere"), "full (somewhere)"),
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
    assert stop.value.code == 2
    assert expected in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run" / "result.json").exists()
