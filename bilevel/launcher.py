"""Read what a launcher (torchrun, accelerate launch) says in the environment of each process."""

from __future__ import annotations

import os

__all__ = ["EXPECTED", "command", "missing", "processes", "rank"]

# What torch.distributed's env:// rendezvous needs.
EXPECTED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def missing() -> list[str]:
    """The variables that a launcher would have set and that are not there."""
    return [name for name in EXPECTED if name not in os.environ]


def processes() -> int:
    """How many processes a launcher has started for this program; 1 without one."""
    return 1 if missing() else int(os.environ["WORLD_SIZE"])


def rank() -> int:
    """Which of them this one is, counted from 0."""
    return int(os.environ["RANK"]) if processes() > 1 else 0


def command() -> list[str]:
    """What stands before ``-m PROGRAM`` to start as many processes again."""
    if (several := processes()) == 1:
        return ["python"]
    here = int(os.environ.get("LOCAL_WORLD_SIZE", several))
    if here == several:
        return ["torchrun", f"--nproc-per-node={here}"]
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    nodes = [f"--nnodes={several // here}", f"--nproc-per-node={here}"]
    return ["torchrun", *nodes, "--rdzv-backend=c10d", f"--rdzv-endpoint={place}"]
