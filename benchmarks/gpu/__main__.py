"""Whether all of it works on a GPU, and how fast: one run of less than ten minutes, no network.

    python -m benchmarks.gpu [--out outputs/gpu] [--device cuda] [--small] [--only PART ...]

Without a GPU the same rows run on the CPU at small sizes, and what is a GPU's is "not measured".
Each row is told of and kept in OUT/gpu.json and OUT/gpu.md as soon as it is done. The exit status
is 1 where a row has failed, or was not reached in its part's time.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

# Seconds on a GPU, of which a process takes some to start; less than ten minutes together.
PARTS = {
    "estimators": 110,
    "changes": 70,
    "attention": 60,
    "precisions": 60,
    "replaying": 30,
    "waits": 80,
    "steps": 170,
}
ON_CPU = 6  # times that: it is shared with others, and nothing there is measured against the clock


def main() -> int:
    """Run what the command line asks for; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu"))
    parser.add_argument("--device", choices=["cuda", "cpu"], help="cuda where there is one")
    parser.add_argument(
        "--small", action="store_true", help="sizes for a CPU; without a GPU always"
    )
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seconds", type=float, help="a part's time, instead of its own")
    parser.add_argument("--child", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--after", help=argparse.SUPPRESS)
    parser.add_argument("--lines", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ[name] = "1"

    import torch

    cuda = torch.cuda.is_available()
    if options.device == "cuda" and not cuda:
        parser.error("--device cuda: PyTorch sees no CUDA device; leave --device out for the CPU")
    device = torch.device(options.device or ("cuda" if cuda else "cpu"))
    small = options.small or device.type == "cpu"
    if options.child:
        return _child(options, device, small)

    from benchmarks.gpu.driver import run_part
    from benchmarks.gpu.report import Report, machine

    options.out.mkdir(parents=True, exist_ok=True)
    report = Report(options.out, machine(device, small))
    report.write()
    for part in options.only:
        command = ["-m", "benchmarks.gpu", "--child", part, "--device", device.type]
        command += ["--small"] if small else []
        own = PARTS[part] * (ON_CPU if device.type == "cpu" else 1)
        with tempfile.TemporaryDirectory() as scratch:
            run_part(
                command,
                own if options.seconds is None else options.seconds,
                Path(scratch),
                lambda line, part=part: report.add(part, line),  # type: ignore[misc]
            )
    counted = ", ".join(f"{number} {status}" for status, number in report.counts().items())
    print(f"{counted}; {options.out / 'gpu.json'}, {options.out / 'gpu.md'}")
    return int(report.failed)


def _child(options: argparse.Namespace, device: Any, small: bool) -> int:
    """The rows of one part, to a file."""
    import importlib

    import betty.logging
    import torch

    from benchmarks.gpu.rows import Setting, run_rows

    betty.logging.get_logger().setLevel(logging.WARNING)
    if device.type == "cpu":
        torch.set_num_threads(1)
    module = importlib.import_module(f"benchmarks.gpu.{options.child}")
    setting = Setting(device, small)
    with options.lines.open("a") as file:

        def write(line: dict[str, Any]) -> None:
            file.write(json.dumps(line) + "\n")
            file.flush()

        return 0 if run_rows(module.rows(setting), setting, write, options.after) else 3


if __name__ == "__main__":
    sys.exit(main())
