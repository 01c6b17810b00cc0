"""Tie a job of a sweep to the sweep that asked for it, and to the scheduler that runs it.

A job is told to end by a signal, as any run is, and saves its state first. Who sends it, and what
is to happen afterwards, differs from launcher to launcher.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bilevel.errors import UserError
from experiments.cli import stopping, workers
from experiments.cli.output import go_on_unread

__all__ = ["ClusterTie", "NoTie", "SchedulerTie", "Tie", "WorkerTie"]

LOOK = 0.5  # seconds


class Tie(Protocol):
    """How one job is joined; it is sent to wherever the job runs."""

    def held(self) -> AbstractContextManager[None]:
        """In here the job runs."""
        ...


@dataclass(frozen=True)
class NoTie:
    """A job in the sweep's own process."""

    def held(self) -> AbstractContextManager[None]:
        """Nothing to do."""
        return nullcontext()


@dataclass(frozen=True)
class WorkerTie:
    """A job in a worker of the sweep's process, on the same machine (joblib).

    Attributes:
        parent: the sweep's process, with which the worker ends.
    """

    parent: int

    def held(self) -> AbstractContextManager[None]:
        """The worker takes signals from now on."""
        workers.attend(self.parent)
        go_on_unread()
        return nullcontext()


@dataclass(frozen=True)
class SchedulerTie:
    """A job that a scheduler may end and start again in the same folder (submitit, on Slurm).

    The signal by which submitit announces the end of a job's time, or that it is preempted (USR2,
    or what ``SUBMITIT_PREEMPT_SIGNAL`` says), saves the run's state; then submitit gets the signal,
    puts the job into the queue again and ends it. SIGTERM saves the state too, and is left to the
    scheduler: what Slurm preempts by it, it starts again; what was cancelled has ended.
    """

    @contextmanager
    def held(self) -> Iterator[None]:
        """See above; in here the run saves its state on either signal.

        Raises:
            SystemExit: the job was told to end, and has saved its state.
        """
        import submitit

        announced = signal.Signals[f"SIG{submitit.JobEnvironment.USR_SIG}"]
        with stopping.orderly(announced), stopping.telling(_nobody):
            yield
            number = stopping.number()
        if number is None:
            return
        if number == announced:
            signal.raise_signal(number)  # submitit's own handler, which does not come back
        if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
            # One that ends by itself counts as done, and Slurm would not start it again.
            while True:
                time.sleep(LOOK)
        raise SystemExit(128 + number)


@dataclass(frozen=True)
class ClusterTie:
    """A job on a machine of a cluster that shares a disk with the sweep's (Ray).

    Attributes:
        place: where the sweep was started, and relative folders begin.
        stop: a file that is there once the sweep was asked to end.
    """

    place: Path
    stop: Path

    @contextmanager
    def held(self) -> Iterator[None]:
        """In here the run ends, its state saved, when the sweep does, or at a signal.

        After a signal to this process alone the process ends, too, so that the cluster starts the
        job again, which goes on from its state.

        Raises:
            UserError: this machine does not see the sweep's folder.
        """
        if not self.place.is_dir():
            raise UserError(
                f"{self.place} is not there on {socket.gethostname()}: hydra/launcher=ray needs a "
                "disk that all machines share"
            )
        os.chdir(self.place)
        done = threading.Event()
        with stopping.orderly(), stopping.telling(_nobody):
            threading.Thread(target=self._watch, args=(done,), daemon=True).start()
            if self.stop.exists():  # before the run begins
                os.kill(os.getpid(), signal.SIGTERM)
            try:
                yield
            finally:
                done.set()
            ended = stopping.requested() and not self.stop.exists()
        if ended:
            os._exit(128 + signal.SIGTERM)

    def _watch(self, done: threading.Event) -> None:
        while not done.wait(LOOK):
            if self.stop.exists():
                os.kill(os.getpid(), signal.SIGTERM)
                return


def _nobody() -> None:
    """Between the run and its surroundings a signal is only noted."""
