"""A sweep in processes of its own: they read configurations and the user's classes as this one."""

import csv
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.run import main

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.slow  # each of the processes loads torch
def test_processes_know_the_user_s_own_method(
    quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    monkeypatch.setattr(sys, "path", list(sys.path))
    words = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"hydra.sweep.dir={tmp_path}"]
    own = ["--config-dir", str(EXAMPLES), "-m", "method=learned_decay", "method.start=-6,-5"]
    main([*own, *quick, *words, "train.max_steps=1", "run.figures=false"])
    with open(tmp_path / "summary.csv", encoding="utf-8") as file:
        assert {row["variant"] for row in csv.DictReader(file)} == {
            "method.start=-5",
            "method.start=-6",
        }


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_workers_end_with_their_sweep(
    quick: list[str], tmp_path: Path, number: int, status: int
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    psutil = pytest.importorskip("psutil")
    words = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"hydra.sweep.dir={tmp_path}"]
    long = ["train.epochs=10000", "engine.checkpoint_every=1000000", "engine.evaluate_every=0"]
    program = [sys.executable, "-m", "experiments.run", "-m", *quick, *words, *long]
    process = subprocess.Popen([*program, "method=lora", "seed=0,1,2,3", "run.figures=false"])
    while len(list(tmp_path.glob("*/metrics.jsonl"))) < 2:
        assert process.poll() is None
        time.sleep(0.1)
    workers = psutil.Process(process.pid).children()
    process.send_signal(number)
    assert process.wait(120) == status
    _, alive = psutil.wait_procs(workers, 60)
    assert alive == []
    assert len(list(tmp_path.glob("*/checkpoints/*.safetensors"))) == 2
    assert list(tmp_path.rglob("result.json")) == []
