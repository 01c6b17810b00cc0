"""The benchmarks still run; what they measure is for people to read."""

import subprocess
import sys

import pytest

RUNS = {
    "salora_window": ["--rounds", "2", "--clock", "cpu", "--precision", "fp32"],
    "step_cost": ["--rounds", "2", "--clock", "cpu", "--only", "none"],
    "sharding": ["--gpus", "2"],
    "memory": ["--steps", "1", "--batch", "2", "--length", "8"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_it_runs_and_prints_a_table(name: str) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", *RUNS[name]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n|") >= 2
