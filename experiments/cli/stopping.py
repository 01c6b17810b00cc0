"""Stop a program in an orderly way on Ctrl-C, a polite kill or a closed terminal.

A signal raises :class:`Stopped` wherever the program is; while it trains, at the end of the step,
so that the state can be saved first. The same signal once more raises it at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from bilevel import launcher

__all__ = [
    "Stopped",
    "busy",
    "due",
    "heeding",
    "number",
    "orderly",
    "requested",
    "status",
    "telling",
    "waiting",
]

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
# A terminal and a scheduler may tell all of a program's processes, and a sweep tells its own again.
SAME = 1.0  # seconds in which signals are one request


class Stopped(KeyboardInterrupt):
    """The program was asked to end."""


class _State:
    """What this process was asked, and how it is to take it: signals are the process's, too."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.first: dict[int, float] = {}
        self.depth = 0
        self.wait = False
        self.busy = False
        self.told: Callable[[], None] | None = None
        self.hook: Callable[[Any], Any] = sys.__unraisablehook__


_state = _State()


def requested() -> bool:
    """Whether the program was asked to end."""
    return _state.number is not None


def number() -> int | None:
    """The signal that asked; None while there was none."""
    return _state.number


def status() -> int:
    """The exit status that says so: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + (_state.number or signal.SIGINT)


def busy() -> bool:
    """Whether this process, a sweep's worker, is at work on a run."""
    return _state.busy


def due() -> Stopped | None:
    """What to raise, once the state is saved; None while the program may go on."""
    return Stopped() if requested() else None


@contextmanager
def orderly(*more: int) -> Iterator[None]:
    """Take signals in here; afterwards they are what they were, and a request is forgotten.

    Args:
        more: signals that ask for the end besides the usual ones.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may ask for signals
        return
    before = {number: signal.getsignal(number) for number in (*SIGNALS, *more)}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # nohup, and what a shell starts with &
            signal.signal(number, _handle)
    hook, sys.unraisablehook = sys.unraisablehook, _swallowed
    if _state.depth == 0:
        _state.hook = hook
    _state.depth += 1
    try:
        yield
    finally:
        _state.depth -= 1
        if _state.depth == 0:
            _state.number = None
            _state.first.clear()
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def waiting() -> Iterator[None]:
    """In here nothing is raised by a signal, but by whoever looks at :func:`due` after each step.

    Raises:
        Stopped: on the way in or out, if there is a request by then.
    """
    with _as(wait=True):
        if requested():
            raise Stopped
        yield
    if requested():  # it came after the last look
        raise Stopped


@contextmanager
def telling(told: Callable[[], None]) -> Iterator[None]:
    """In here nothing is raised, but others are told: they end, and so does what waits for them."""
    with _as(wait=True, told=told):
        yield


@contextmanager
def heeding() -> Iterator[None]:
    """In here a signal raises, whatever holds around it; a request that is there raises at once."""
    with _as(wait=False, busy=True):
        if requested():
            raise Stopped
        yield


@contextmanager
def _as(**state: Any) -> Iterator[None]:
    before = dict(vars(_state))
    vars(_state).update(state)
    try:
        yield
    finally:
        vars(_state).update({key: before[key] for key in state})


def _swallowed(what: Any) -> None:
    """Raise it again a little later where Python could not: in the middle of a ``__del__``."""
    if isinstance(what.exc_value, Stopped) and _state.number is not None:
        timer = threading.Timer(0.05, os.kill, (os.getpid(), _state.number))
        timer.daemon = True
        timer.start()
    else:
        _state.hook(what)


def _handle(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    again = now - _state.first.setdefault(number, now) > SAME
    new = not requested()
    _state.number = _state.number or number
    if new and _state.told is not None:
        _state.told()
    if not _state.wait or again:
        raise Stopped
    if new and launcher.rank() == 0:
        with suppress(OSError):  # no print: the signal may have come in the middle of one
            os.write(2, b"\ninterrupted: ends after this step; once more to end at once\n")
