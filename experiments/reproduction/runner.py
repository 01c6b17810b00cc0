"""Make runs: one in a process of its own, so that its memory is given back, or several at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.cli import resume, stopping
from experiments.cli.command_line import CommandLine
from experiments.cli.places import shell_line
from experiments.reproduction.cells import Cell

__all__ = ["command", "last_error", "run", "run_together"]

PATIENCE = 20.0  # seconds that a run gets to end itself
ERROR = "error: "
KILLED = 9  # SIGKILL, which Windows has no name for


def command(words: list[str]) -> str:
    """What a person would type."""
    return shell_line(words)


def run(words: list[str]) -> str | None:
    """``python -m experiments.run`` with these words, its output passed on as it comes.

    Returns:
        Why it failed, in one sentence; None if it did not.
    """
    # In a session of its own Ctrl-C reaches only this process, which then ends the run.
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.run", *words],
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    assert process.stderr is not None
    last = ""
    try:
        for line in process.stderr:
            sys.stderr.write(line)
            last = line.strip() or last
        code = process.wait()
    finally:
        _end(process)
    if code == 0:
        return None
    if code == -KILLED:
        return "it was killed (signal 9), as happens when the machine is out of memory"
    if code < 0:
        return f"it was ended by signal {-code}"
    return last.removeprefix(ERROR) or f"it ended with status {code} and said nothing"


def run_together(cells: Sequence[Cell], launcher: Sequence[str], folder: Path) -> None:
    """Make runs by one of Hydra's launchers; each says in its run.log how it ended.

    Args:
        cells: the runs.
        launcher: ``hydra/launcher=NAME`` and its options.
        folder: where the launcher keeps what is its own.

    Raises:
        KeyboardInterrupt: the program was asked to end, and the runs have ended.
        UserError: an option of the launcher does not suit, or a job was ended from outside.
    """
    if not cells:
        return
    from experiments.run import job  # here: --help and table=list need no Hydra
    from experiments.sweeping.batch import run_batch

    run_batch(launcher, folder, [(cell.folder, _words(cell)) for cell in cells], job)
    if stopping.requested():
        raise stopping.Stopped


def _words(cell: Cell) -> list[str]:
    """The words of a run that goes on by itself, in the folder that its launcher gives it."""
    words = resume.expand(CommandLine.parse(cell.words()))
    places = ("hydra.run.dir=", "run.resume=")
    kept = [word for word in words if not word.lstrip("+").startswith(places)]
    return [*kept, "run.resume=auto"]


def last_error(folder: Path) -> str:
    """Why the run in a folder failed, as it says itself."""
    path = folder / "run.log"
    lines = path.read_text("utf-8", "replace").splitlines() if path.is_file() else []
    found = [line.partition(f" {ERROR}")[2] for line in lines if f" {ERROR}" in line]
    return found[-1] if found else "it ended without a result.json"


def _end(process: subprocess.Popen[str]) -> None:
    """End the run if it is still at work; its checkpoints let it go on later."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
