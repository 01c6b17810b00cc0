"""An answer within a second: help and mistakes of the configuration load no heavy library."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "peft", "transformers", "datasets", "sklearn", "scipy", "pandas", "matplotlib")
SCRIPT = f"""
import sys
from experiments.run import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    print("status", stop.code)
print("loaded:", *[name for name in {HEAVY} if name in sys.modules])
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


@pytest.mark.parametrize("words", [*FINE, *WRONG], ids=" ".join)
def test_nothing_heavy_is_loaded(words: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
        env={"PYTHONPATH": str(Path(__file__).parents[3]), "PATH": "", "HOME": str(tmp_path)},
    )
    *_, last = done.stdout.splitlines()
    assert last.strip() == "loaded:", words
    assert ("status 2" in done.stdout) == (words in WRONG)
    if words in WRONG:
        assert done.stderr.startswith("error: ")
        assert not list(tmp_path.iterdir())
