"""Let several training loops take blocks of steps in turn, in one process, and time each.

Loops that know nothing of one another (a Trainer's, an engine's, a bare one) run in threads of
their own, of which one runs at a time; each calls :meth:`Turns.step` at the end of every step. What
is counted is the processor time of the loop's own thread, so torch must use one thread. A machine
whose speed drifts, or that others use too, slows all loops of a round alike.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

__all__ = ["Turns", "ratio"]

Loop = Callable[[Callable[[], None]], None]
RESAMPLED = 10_000


class _OverError(Exception):
    """The measurement is over: leave the loop."""


class _Runner:
    """One loop in its thread, which waits for its turn."""

    def __init__(self, loop: Loop, block: int) -> None:
        self.block = block
        self.seconds: list[float] = []  # of a step, by block
        self.error: BaseException | None = None
        self._left, self._started, self._over = 1, 0.0, False
        self._mine, self._theirs = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, args=(loop,), daemon=True)
        self._thread.start()

    def turn(self) -> None:
        """Let the loop take a block of steps; the first time, what comes before its first step."""
        self._mine.release()
        self._theirs.acquire()
        if self.error is not None:
            raise self.error

    def end(self) -> None:
        """Let the loop end."""
        self._over = True
        self._mine.release()
        self._thread.join()

    def _run(self, loop: Loop) -> None:
        self._mine.acquire()
        try:
            if not self._over:
                loop(self._step)
                raise RuntimeError("a training loop has ended before the measurement")
        except _OverError:
            pass
        except BaseException as error:
            self.error = error
        finally:
            self._theirs.release()

    def _step(self) -> None:
        self._left -= 1
        if self._left:
            return
        if self._started:
            self.seconds.append((time.thread_time() - self._started) / self.block)
        self._theirs.release()
        self._mine.acquire()
        if self._over:
            raise _OverError
        self._left, self._started = self.block, time.thread_time()


class Turns:
    """Loops by name, each of which calls the function it is given after every step.

    Args:
        loops: what to time; none may end by itself before ``rounds * block + 1`` steps.
        block: steps in a turn.
    """

    def __init__(self, loops: dict[str, Loop], block: int) -> None:
        self._runners = {name: _Runner(loop, block) for name, loop in loops.items()}

    def seconds(self, rounds: int) -> dict[str, list[float]]:
        """Processor seconds of a step, by loop: one number a round, a block's mean.

        A first turn, with all that is before a loop's first step and that step, is not counted.

        Raises:
            BaseException: what a loop has raised.
        """
        try:
            for _ in range(rounds + 1):
                for runner in self._runners.values():
                    runner.turn()
        finally:
            for runner in self._runners.values():
                runner.end()
        return {name: runner.seconds for name, runner in self._runners.items()}


def ratio(above: list[float], below: list[float]) -> tuple[float, float, float]:
    """Median over rounds of a / b, and the 95 % interval of it (rounds drawn again, seed 0)."""
    ratios = np.asarray(above) / np.asarray(below)
    drawn = np.random.default_rng(0).choice(ratios, (RESAMPLED, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return float(np.median(ratios)), float(low), float(high)
