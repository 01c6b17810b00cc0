"""A sweep in processes of its own: they read configurations and the user's classes as this one."""

import csv
import sys
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
