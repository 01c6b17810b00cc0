"""End a sweep's processes when the sweep is asked to end, and when it is gone."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import ExitStack, suppress

from experiments.cli import stopping

__all__ = ["attend", "tell"]

PATIENCE = 30.0  # seconds that a run gets to save its state
LOOK = 0.2

_kept = ExitStack()  # until the process ends
_attending = False


def attend(parent: int) -> None:
    """In a worker: take signals from now on, and end when the process that started it has ended.

    Args:
        parent: that process.
    """
    global _attending
    if _attending:
        return
    _attending = True
    # For good: between two runs a signal is only noted, and no other run begins.
    _kept.enter_context(stopping.orderly())
    _kept.enter_context(stopping.telling(lambda: None))
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def tell(parent: int) -> None:
    """Ask the workers of a process to end their runs and begin no other."""
    import psutil

    for child in psutil.Process(parent).children():
        with suppress(psutil.Error):
            child.send_signal(signal.SIGTERM)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK)
    os.kill(os.getpid(), signal.SIGTERM)
    until = time.monotonic() + PATIENCE
    time.sleep(LOOK)
    while stopping.busy() and time.monotonic() < until:
        time.sleep(LOOK)
    os._exit(128 + signal.SIGTERM)
