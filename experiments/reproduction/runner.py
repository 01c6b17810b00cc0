"""A run in a process of its own, so that its memory is given back when it ends."""

from __future__ import annotations

import subprocess
import sys

from experiments.cli.places import shell_line

__all__ = ["command", "run"]

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
