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

__all__ = ["hush", "lost", "may_tell", "refuse"]

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


def may_tell(error: BaseException | None, interrupted: bool) -> bool:
    """Whether this process is the one to tell what has ended the run.

    Args:
        error: what it met.
        interrupted: by a signal: then the first process tells, which knows the run's folder.
    """
    if launcher.processes() == 1:
        return True
    first = launcher.rank() == 0
    try:
        return _tells(first, interrupted, lost(error))
    except KeyboardInterrupt:  # the launcher is done waiting
        return False


def _tells(first: bool, interrupted: bool, lost: bool) -> bool:
    if not _joined():
        # All have the same words, and meet the same mistake: the first tells. What is wrong on
        # another machine alone is told by a process there, if nobody has ended it by then.
        if first:
            return True
        if not interrupted:
            time.sleep(GRACE)
        return not interrupted
    from bilevel.distributed import first_to

    if not (interrupted or lost):
        return first_to(TOLD)[0]
    if not first:
        return False
    until = time.monotonic() + WORD
    while lost and time.monotonic() < until:  # who ended may be about to tell why
        if not first_to(TOLD, claim=False)[0]:
            return False
        time.sleep(0.05)
    return first_to(TOLD)[0]


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
