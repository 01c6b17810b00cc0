"""Start a program on several processes: all agree on what to do, one speaks, and all end together.

A launcher starts N times the same program. The first process writes and prints. An error of any of
them is told once, by the process that meets it first: the launcher ends the others then, and what
they meet on their way out (a closed connection, a signal) is no news.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings

from bilevel import launcher
from bilevel.errors import UserError

__all__ = ["hush", "lost", "may_tell", "reason", "refuse"]

TOLD = "error"
GRACE = 10.0  # seconds that a process gives the first one to tell what is wrong with the words
WORD = 3.0  # seconds that a process that lost another one waits for that one's word


def refuse(program: str) -> None:
    """Refuse to run what is for one process on several.

    Args:
        program: what the user has started, ``experiments.report`` say.

    Raises:
        UserError: a launcher has started several.
    """
    if (several := launcher.processes()) > 1:
        raise UserError(
            f"{program} runs in one process, and a launcher has started {several}: start it with "
            "python -m (experiments.run shares its work)"
        )


def hush() -> None:
    """Let this process, which is not the first, say nothing of what all of them would say."""
    logging.getLogger().handlers = [logging.NullHandler()]
    warnings.simplefilter("ignore")


def reason(error: BaseException) -> str:
    """What has ended the run: where another process is gone, its own word on it, if it left one."""
    if not lost(error):
        return str(error)
    from bilevel.distributed import first_to

    until, words = time.monotonic() + WORD, ""
    while not words and time.monotonic() < until:  # it may be about to tell
        words = first_to(TOLD, claim=False)[1]
        time.sleep(0.05)
    return words or str(error)


def may_tell(text: str, interrupted: bool, error: BaseException | None = None) -> bool:
    """Whether this process is the one to tell what has ended the run.

    Args:
        text: what it would say.
        interrupted: by a signal: then the first process tells, which knows the run's folder.
        error: what it met.
    """
    if launcher.processes() == 1:
        return True
    first = launcher.rank() == 0
    if _joined():
        from bilevel.distributed import first_to

        return (first or not (interrupted or lost(error))) and first_to(TOLD, text)[0]
    if first or interrupted:
        return first
    # All have the same words, and meet the same mistake, which the first tells. What is wrong on
    # another machine alone is told by a process there, if nobody has ended it by then.
    try:
        time.sleep(GRACE)
    except KeyboardInterrupt:
        return False
    return True


def _joined() -> bool:
    if "bilevel.distributed" not in sys.modules:
        return False
    import torch.distributed

    return torch.distributed.is_initialized()


def lost(error: BaseException | None) -> bool:
    """Whether it says no more than that another process is gone."""
    if not _joined():
        return False
    from bilevel.distributed import PeerLostError

    return isinstance(error, PeerLostError)
