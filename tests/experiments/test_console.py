"""The one command for all programs, also where other folders have our packages' names."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from experiments import console

REPOSITORY = Path(__file__).parents[2]
ALONE = "import sys; from experiments import console; console.main(sys.argv[1:])"


def test_its_page_names_every_program_and_loads_none(capsys: pytest.CaptureFixture[str]) -> None:
    console.main(["--help"])
    text = capsys.readouterr().out
    programs = {
        path.stem
        for path in (REPOSITORY / "experiments").glob("*.py")
        if "def main" in path.read_text() and path.stem != "console"
    } | {path.parent.name for path in (REPOSITORY / "experiments").glob("*/__main__.py")}
    assert set(console.PROGRAMS) == programs
    for name in programs:
        assert f"\n  {name} " in text


@pytest.mark.parametrize("name", ["check-hypergradient", "check_hypergradient", "ranks"])
def test_a_program_gets_the_words_after_its_name(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    console.main([name, "--help"])
    assert f"python -m experiments.{name.replace('-', '_')}" in capsys.readouterr().out


@pytest.mark.parametrize("name", console.PROGRAMS)
def test_every_program_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with suppress(SystemExit):  # argparse's
        console.main([name, "--help"])
    said = capsys.readouterr()
    assert len(said.out.splitlines()) > 3
    assert said.err == ""


def test_a_program_that_is_none_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        console.main(["rank", "run=DIR"])
    assert stop.value.code == 2
    assert "did you mean 'ranks'" in capsys.readouterr().err


def shadowed(folder: Path) -> Path:
    """A user's folder whose packages are called like ours."""
    for name in ("conf", "experiments"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("")
    return folder


def answer(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Of a new process in the folder, with ours installed behind what it looks at first."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_the_command_does_not_look_into_the_present_folder(tmp_path: Path) -> None:
    folder = shadowed(tmp_path)
    done = answer(folder, "-P", "-c", ALONE, "run", "--help", "task=demo")  # as a script's: no cwd
    assert done.returncode == 0, done.stderr
    assert "task.max_train" in done.stdout


def test_a_conf_of_the_users_own_is_told(tmp_path: Path) -> None:
    folder = shadowed(tmp_path)
    (folder / "experiments" / "__init__.py").unlink()
    (folder / "experiments").rmdir()
    done = answer(folder, "-m", "experiments.run", "method=lora", "task=demo")
    assert done.returncode == 2
    assert "conf" in done.stderr
    assert "bilevel-finetune" in done.stderr
    assert "Traceback" not in done.stderr
