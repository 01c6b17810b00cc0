"""The benchmarks still run; what they measure is for people to read."""

import subprocess
import sys

import pytest

from benchmarks.turns import Turns, ratio

RUNS = {
    "salora_window": ["--rounds", "2", "--clock", "cpu", "--precision", "fp32"],
    "step_cost": ["--rounds", "2", "--clock", "cpu", "--only", "none"],
    "sharding": ["--gpus", "2"],
    "memory": ["--steps", "1", "--batch", "2", "--length", "8"],
    "peers": ["--rounds", "2", "--block", "1"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_it_runs_and_prints_a_table(name: str) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", *RUNS[name]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n|") >= 2


def test_training_loops_take_blocks_of_steps_in_turn() -> None:
    order = []

    def loop(name):
        def run(step):
            while True:
                order.append(name)
                step()

        return run

    found = Turns({"a": loop("a"), "b": loop("b")}, block=2).seconds(rounds=2)
    assert "".join(order) == "ab" + 2 * "aabb"  # the first step is not counted
    assert {name: len(seconds) for name, seconds in found.items()} == {"a": 2, "b": 2}
    assert min(found["a"] + found["b"]) >= 0


def test_what_a_loop_raises_is_not_lost() -> None:
    def waits(step):
        while True:
            step()

    def fails(step):
        step()
        raise ValueError("no more data")

    with pytest.raises(ValueError, match="no more data"):
        Turns({"waits": waits, "fails": fails}, block=1).seconds(rounds=3)


def test_the_ratio_is_the_median_of_the_rounds_with_its_interval() -> None:
    middle, low, high = ratio([2.0, 4.0, 30.0, 8.0, 10.0], [1.0, 2.0, 3.0, 4.0, 5.0])
    assert (middle, low) == (2.0, 2.0)
    assert 2.0 <= high <= 10.0
