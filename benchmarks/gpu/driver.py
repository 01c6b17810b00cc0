"""Run a part's rows in a process of their own, against the clock, and go on behind what breaks it.

A kernel that hangs, a crash, an error that CUDA does not forgive: the row under way has failed, and
a new process goes on with the next one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["run_part"]

Line = dict[str, Any]
POLL = 0.1


def run_part(
    command: Sequence[str], seconds: float, scratch: Path, tell: Callable[[Line], None]
) -> None:
    """Run a part to its end or to the end of its time; every row is told of, whatever happens.

    Args:
        command: of a child that appends the lines of :func:`benchmarks.gpu.rows.run_rows` to the
            file named as its last argument, and takes ``--after ROW``.
        seconds: the part's time.
        scratch: a folder for the child's file and what it prints.
        tell: is handed each row's line.
    """
    end = time.monotonic() + seconds
    told: list[str] = []
    while True:
        lines, spent, code, words = _child(command, told[-1] if told else None, end, scratch, tell)
        names = next((line["rows"] for line in lines if "rows" in line), None)
        told += [line["row"] for line in lines if "row" in line]
        if names is None:
            why = f"not within its {seconds:g} seconds" if spent else words
            tell(_failed("start", f"the part did not start: {why}"))
            return
        left = [name for name in names if name not in told]
        if not left:
            return
        begun = any(line.get("begun") == left[0] for line in lines)
        if spent:
            why = f"the part's {seconds:g} seconds were spent"
            tell(_failed(left[0], f"{why} while it ran" if begun else why))
            for name in left[1:]:
                tell(_failed(name, why))
            return
        if begun:  # it took the process with it
            tell(_failed(left[0], f"its process ended with status {code}: {words}"))
            told.append(left[0])
            if len(left) == 1:
                return


def _child(
    command: Sequence[str],
    after: str | None,
    end: float,
    scratch: Path,
    tell: Callable[[Line], None],
) -> tuple[list[Line], bool, int, str]:
    """Its lines, whether its time was spent, its exit status, and the last it printed."""
    file, printed = scratch / "lines.jsonl", scratch / "printed.txt"
    file.write_text("")
    lines: list[Line] = []
    extra = [] if after is None else ["--after", after]
    with file.open() as following, printed.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", *command, *extra, "--lines", str(file)],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        pending, spent = "", False
        while True:
            ended = process.poll() is not None  # asked first: what it wrote last is still read
            pending += following.read()
            *whole, pending = pending.split("\n")
            for text in whole:
                lines.append(json.loads(text))
                if "row" in lines[-1]:
                    tell(lines[-1])
            if ended:
                break
            if time.monotonic() > end:
                spent = True
                process.kill()
                process.wait()
                continue
            time.sleep(POLL)
    last = printed.read_text(errors="replace").strip().splitlines()
    return lines, spent, process.returncode, last[-1] if last else "it printed nothing"


def _failed(name: str, message: str) -> Line:
    return {"row": name, "status": "failed", "message": message, "seconds": None, "values": {}}
