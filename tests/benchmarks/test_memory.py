"""The benchmark of peak memory: each measure is a process of its own, and all of them run."""

import subprocess
from types import SimpleNamespace

import pytest

from benchmarks import common, memory
from tests.benchmarks.small import small_model, started, table


def test_the_table_has_peaks_of_processes_and_their_growth(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    peaks = {("unrolled", "1"): 600, ("unrolled", "8"): 630}
    peaks |= {("TorchOpt", "1"): 700, ("TorchOpt", "8"): 1400}

    def process(command: list[str], **_: object) -> SimpleNamespace:
        given = dict(zip(command[5::2], command[6::2], strict=True))
        assert command[3:5] == ["-m", "benchmarks.memory"]
        assert (given["--batch"], given["--length"], given["--device"]) == ("2", "16", "cpu")
        peak = peaks[given["--child"], given["--steps"]]
        return SimpleNamespace(stdout=f"something else\n{peak}.0\n")

    monkeypatch.setattr(subprocess, "run", process)
    monkeypatch.delitem(memory.LIBRARIES, "forward")
    words = ["--steps", "1", "8", "--batch", "2", "--length", "16"]
    assert table(started("memory", words, monkeypatch, capsys)) == [
        ["library", "T1 = 1", "T1 = 8", "last / first"],
        ["unrolled", "600", "630", "1.05"],
        ["TorchOpt", "700", "1400", "2.00"],
    ]


@pytest.mark.parametrize("library", memory.LIBRARIES)
def test_a_child_takes_its_steps_and_tells_its_peak(
    library: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(common, "base_model", small_model)
    words = ["--child", library, "--steps", "2", "--batch", "2", "--length", "4"]
    assert float(started("memory", words, monkeypatch, capsys)) > 10
