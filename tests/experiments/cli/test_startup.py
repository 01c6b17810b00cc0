"""An answer within a second: help and mistakes of the configuration load no heavy library."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HEAVY = ("torch", "peft", "transformers", "datasets", "sklearn", "scipy", "pandas", "matplotlib")
# All command lines in one fresh process, each in a folder of its own; a library counts against the
# first that loads it.
SCRIPT = f"""
import contextlib, importlib, io, json, os, sys
main = importlib.import_module("experiments." + sys.argv[2]).main
found, before = [], set()
for number, words in enumerate(json.loads(sys.argv[1])):
    os.mkdir(str(number))
    os.chdir(str(number))
    status, out, errors = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            main(words)
        except SystemExit as stop:
            status = stop.code
    loaded = set({HEAVY}) & sys.modules.keys()
    left = os.listdir()
    found.append([status, errors.getvalue(), sorted(loaded - before), left])
    before = loaded
    os.chdir("..")
print(json.dumps(found))
"""

FINE = [["--help"], ["--cfg", "job"], ["--help", "method=bilora"], ["--help", "task"]]
WRONG = [
    ["method=autolra"],
    ["method.rank=0"],
    ["method=bilora", "method.values=sotfmax"],
    ["method.lower.lr=fast"],
    ["train.epoch=3"],
    ["train.batch_size=0"],
    ["engine.precision=fp8"],
    ["hypergradient=unrolled", "hypergradient.depth=-1"],
    ["task=sst2", "task.max_train=many"],
    ["task=tagging", "task.data_dir=.", "task.max_length=1"],
    ["model=hub"],
    ["model.dropout=2"],
    ["method=houlsby", "train.target_modules=[a]"],
    ["seed=-1"],
    ["--methd"],
    ["run.resume=nowhere"],
]


ALL = [*FINE, *WRONG]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By command line: exit status, stderr, heavy libraries loaded, files left behind."""
    return asked("run", ALL, tmp_path_factory.mktemp("startup"))


def asked(program: str, lines: list[list[str]], folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(lines), program],
        capture_output=True,
        text=True,
        cwd=folder,
        check=True,
        env={"PYTHONPATH": str(Path(__file__).parents[3]), "PATH": "", "HOME": str(folder)},
    )
    found = json.loads(done.stdout)
    return dict(zip(map(" ".join, lines), found, strict=True))


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_nothing_heavy_is_loaded(words: list[str], answers: dict[str, Any]) -> None:
    status, errors, loaded, left = answers[" ".join(words)]
    assert loaded == []
    assert status == (2 if words in WRONG else 0)
    if words in WRONG:
        assert errors.startswith("error: ")
        assert not left


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("predict", ["run=nowhere", "data=a.csv", "out=b.txt"]),
        ("export", ["run=nowhere", "merge=ture"]),
        ("evaluate", ["run=nowhere"]),
        ("ranks", ["run=nowhere", "criterion=best"]),
    ],
)
def test_nor_by_the_programs_that_take_a_run(
    program: str, words: list[str], tmp_path: Path
) -> None:
    ((status, errors, loaded, left),) = asked(program, [words], tmp_path).values()
    assert (status, loaded, left) == (2, [], [])
    assert errors.startswith("error: ")


def test_a_run_loads_nothing_of_pictures_and_comparisons() -> None:
    """They take 45 MiB and two seconds together; a run's modules come with all that it needs."""
    script = (
        "import sys, experiments.run, experiments.training.job\n"
        "print({'matplotlib', 'scipy.stats', 'sklearn'} & sys.modules.keys())"
    )
    folder = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        cwd=folder,
        check=True,
    )
    assert done.stdout.strip() == "set()"
