"""Refuse to begin a run in a folder that holds anything of another."""

from __future__ import annotations

from pathlib import Path

from bilevel.errors import UserError, listed

__all__ = ["refuse_others"]

# What Hydra writes before a run begins, and the lock on the folder.
OURS = (".hydra", "run.lock")
OF_A_RUN = ("checkpoints", "metrics.jsonl", "result.json")


def refuse_others(folder: Path) -> None:
    """Look into the folder that a new run is to begin in.

    Args:
        folder: need not be there. What a start that came to nothing has left is no matter.

    Raises:
        UserError: something else is in it.
    """
    if not folder.is_dir():
        return
    others = sorted(p.name for p in folder.iterdir() if p.name not in OURS and p.suffix != ".log")
    if others:
        what = "a run" if set(others) & set(OF_A_RUN) else "other files"
        more = ["..."] if len(others) > 5 else []
        raise UserError(
            f"{folder} holds {what} already ({listed([*others[:5], *more])}), and a new run needs "
            "a folder of its own: give another folder, or go on with a run by run.resume=DIR (in "
            "Python resume=True)"
        )
