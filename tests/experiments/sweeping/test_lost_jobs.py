"""Jobs that are preempted or killed while they train: the same runs as without."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.run import main

PREEMPTED = signal.SIGUSR2
LONG = ["method=lora", "train.epochs=25", "engine.evaluate_every=0", "run.figures=false", "seed=0"]


def result(folder: Path) -> dict[str, Any]:
    values = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return {key: values[key] for key in ("metrics", "train_loss", "test_loss", "examples_seen")}


def swept(words: list[str], folder: Path, number: int, is_job: Callable[[str], bool]) -> Path:
    """The folder of a sweep's only run, whose process got a signal while it trained."""
    psutil = pytest.importorskip("psutil")
    log = folder.with_suffix(".log")
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "experiments.run", "-m", *words, f"hydra.sweep.dir={folder}"],
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    run = folder / "0_lora_demo_seed0"
    while not list(run.glob("checkpoints/*.safetensors")):
        if process.poll() is not None and "timed out during startup" in log.read_text("utf-8"):
            pytest.skip("the machine is too busy: Ray is not up within its 30 seconds")
        assert process.poll() is None, log.read_text("utf-8")
        time.sleep(0.05)
    jobs = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if is_job(" ".join(child.cmdline()))
    ]
    assert len(jobs) == 1
    jobs[0].send_signal(number)
    assert not (run / "result.json").exists()
    assert process.wait(600) == 0, log.read_text("utf-8")
    return run


@pytest.fixture
def whole(quick: list[str], tmp_path: Path) -> dict[str, Any]:
    """The run without a sweep or a signal."""
    main([*quick, *LONG, f"hydra.run.dir={tmp_path / 'whole'}"])
    return result(tmp_path / "whole")


@pytest.mark.slow
def test_submitits_job_is_put_into_the_queue_again(
    quick: list[str], tmp_path: Path, whole: dict[str, Any]
) -> None:
    reason = "needs the extra submitit"
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason=reason)
    words = [*quick, *LONG, "hydra/launcher=submitit_local"]
    run = swept(words, tmp_path / "swept", PREEMPTED, lambda line: "core._submit" in line)
    log = (run / "run.log").read_text(encoding="utf-8")
    assert log.index("interrupted") < log.index("Requeued") < log.rindex("run in")
    assert result(run) == whole


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_rays_job_is_started_again(
    quick: list[str], tmp_path: Path, whole: dict[str, Any], number: int
) -> None:
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="needs the extra ray")
    own = ["hydra/launcher=ray", "hydra.launcher.ray.init.address=local"]
    words = [*quick, *LONG, *own, "hydra.launcher.ray.init.num_cpus=1"]
    run = swept(words, tmp_path / "swept", number, lambda line: line.startswith("ray::_run_job"))
    assert (run / "run.log").read_text(encoding="utf-8").count("run in") == 2
    assert result(run) == whole
