"""End a program on Ctrl-C while it is still being imported: in one line, not in a traceback."""

import os
import signal
from types import FrameType

__all__ = ["end_on_interrupt"]


def end_on_interrupt() -> None:
    """Until the program itself says how it takes it: there is nothing to save yet.

    An exception in the middle of an import may come out as another one.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def _end(number: int, frame: FrameType | None) -> None:
    if os.environ.get("RANK", "0") == "0":  # of several processes the first tells
        os.write(2, b"error: interrupted\n")
    os._exit(128 + number)
