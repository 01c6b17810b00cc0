"""A row that fails, hangs or takes its process with it loses no other row."""

import json
import subprocess
import sys

import pytest
import torch

from benchmarks.gpu import estimators
from benchmarks.gpu.driver import run_part
from benchmarks.gpu.models import LARGE, causal
from benchmarks.gpu.report import Report
from benchmarks.gpu.rows import NotMeasured, Setting, Skipped, run_rows
from bilevel.hypergradient import base

ON_CPU = Setting(torch.device("cpu"), small=True)

CHILD = """
import argparse, json, os, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("--after")
parser.add_argument("--lines")
options = parser.parse_args()
names = ["good", "dies", "better", "hangs", "never"]
if options.after == "none":
    raise SystemExit("nothing to start with")
left = names[names.index(options.after) + 1:] if options.after else names
with open(options.lines, "a") as file:
    def write(line):
        file.write(json.dumps(line) + chr(10))
        file.flush()
    write({"rows": names})
    for name in left:
        write({"begun": name})
        if name == "dies":
            print("first words")
            print("last words", flush=True)
            os._exit(7)
        if name == "hangs":
            time.sleep(60)
        write({"row": name, "status": "passed", "message": "", "seconds": 0.0, "values": {}})
"""


def told(child, tmp_path, seconds):
    file = tmp_path / "child.py"
    file.write_text(child)
    lines = []
    run_part([str(file)], seconds, tmp_path, lines.append)
    return {line["row"]: (line["status"], line["message"]) for line in lines}


def test_what_breaks_a_process_is_a_failed_row_and_the_next_one_goes_on(tmp_path):
    found = told(CHILD, tmp_path, seconds=2.0)
    assert list(found) == ["good", "dies", "better", "hangs", "never"]
    assert found["good"][0] == found["better"][0] == "passed"
    assert found["dies"] == ("failed", "its process ended with status 7: last words")
    assert found["hangs"][0] == found["never"][0] == "failed"
    assert "seconds were spent while it ran" in found["hangs"][1]
    assert "while it ran" not in found["never"][1]


def test_a_part_that_does_not_start_says_why(tmp_path):
    found = told("raise SystemExit('no such library')", tmp_path, seconds=5.0)
    assert found["start"][0] == "failed"
    assert "no such library" in found["start"][1]


def test_outcomes_of_rows():
    def broken():
        raise ValueError("out of range\nand more")

    def skipped():
        raise Skipped("the package is not installed")

    def unmeasured():
        raise NotMeasured("no GPU", {"ours": 0})

    rows = {"broken": broken, "skipped": skipped, "no": unmeasured, "yes": lambda: {"ms": 1.0}}
    lines = []
    assert run_rows(rows, ON_CPU, lines.append)
    found = {line["row"]: line for line in lines if "row" in line}
    statuses = [found[name]["status"] for name in rows]
    assert statuses == ["failed", "skipped", "not measured", "passed"]
    assert found["broken"]["message"].startswith("ValueError: out of range (test_gpu_driver.py:")
    assert found["no"]["values"] == {"ours": 0}
    lines.clear()
    run_rows(rows, ON_CPU, lines.append, after="no")
    assert [line["row"] for line in lines if "row" in line] == ["yes"]


def test_files_are_whole_after_every_row(tmp_path):
    report = Report(tmp_path, {"device": "a card"})
    row = {"row": "a", "status": "passed", "message": "", "seconds": 1.0, "values": {"ms": 2.0}}
    report.add("steps", row)
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert content["device"] == "a card"
    assert content["rows"][0]["values"] == {"ms": 2.0}
    assert not report.failed
    report.add("steps", {**row, "status": "failed", "message": "a | b", "values": {}})
    assert report.failed
    assert json.loads((tmp_path / "gpu.json").read_text())["counts"] == {"passed": 1, "failed": 1}
    table = (tmp_path / "gpu.md").read_text()
    assert "| steps | a | passed | ms 2 |  |" in table
    assert "a / b" in table


def test_every_estimator_is_checked():
    shipped = {name for name, cls in base._classes.items() if cls.__module__.startswith("bilevel.")}
    assert {case.estimator.name for case in estimators.ESTIMATORS.values()} == shipped


def test_an_estimator_that_is_off_on_the_device_fails(monkeypatch):
    row = estimators.rows(ON_CPU)["soba"]
    assert row()["float64"] <= estimators.IN_FLOAT64
    right = estimators.terms
    monkeypatch.setattr(
        estimators,
        "terms",
        lambda estimator, device, **options: (
            right(estimator, device, **options) * (1.0 + 0.01 * ("dtype" in options))
        ),
    )
    with pytest.raises(Exception, match="float64 off by"):
        row()


def test_the_large_decoder_has_one_and_a_half_billion_parameters():
    model = causal(LARGE, torch.device("meta"))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(1.5e9, rel=0.05)


@pytest.mark.slow
def test_the_program_on_the_cpu(tmp_path):
    """All parts, at small size; nothing fails, and nothing claims to be a figure of a GPU."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads((tmp_path / "gpu.json").read_text())
    statuses = {(row["part"], row["status"]) for row in content["rows"]}
    assert ("estimators", "passed") in statuses
    assert ("waits", "not measured") in statuses
    assert "CPU" in content["device"]
    assert all(row["values"].get("share of peak") is None for row in content["rows"])
