"""Say what each of Hydra's launchers asks of a sweep: how its jobs end, and what may fail.

A launcher is known by its class, whatever option of hydra/launcher named it.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bilevel.errors import UserError
from experiments.cli import stopping, workers
from experiments.cli.writing import write_atomically
from experiments.sweeping.ties import ClusterTie, NoTie, SchedulerTie, Tie, WorkerTie

__all__ = ["Local", "Ray", "Submitit", "Workers", "launcher_of"]

log = logging.getLogger(__name__)

STOP = ".stop"  # a file in a sweep's folder


class Local:
    """Jobs one after the other in this process; a launcher that we do not know is taken for it.

    Attributes:
        away: whether jobs outlive this process, so that they begin with ``run.resume=auto`` and in
            a folder by its whole name.
    """

    away = False

    def tie(self, folder: Path) -> Tie:
        """What joins a job to a sweep in this folder."""
        return NoTie()

    @contextmanager
    def attended(self, folder: Path) -> Iterator[None]:
        """In here the jobs run; a request to end reaches them.

        Raises:
            UserError: one of them was ended from outside.
        """
        yield


class Workers(Local):
    """joblib: processes of this machine, which end with this one."""

    def tie(self, folder: Path) -> Tie:
        """See :class:`Local`."""
        return WorkerTie(os.getpid())

    @contextmanager
    def attended(self, folder: Path) -> Iterator[None]:
        """See :class:`Local`."""
        try:
            with stopping.telling(partial(workers.tell, os.getpid())):
                yield
        except BrokenProcessPool as error:
            raise UserError(
                "a process of the sweep was ended from outside, as happens when the machine is out "
                "of memory: try a smaller hydra.launcher.n_jobs"
            ) from error


class Submitit(Local):
    """submitit: jobs of Slurm, or processes that stand in for them.

    Args:
        config: of the launcher.

    Raises:
        UserError: a job of several processes.
    """

    away = True

    def __init__(self, config: DictConfig) -> None:
        for key in ("nodes", "tasks_per_node"):
            if config.get(key) not in (None, 1):
                raise UserError(
                    f"hydra.launcher.{key}={config[key]}: a job of a sweep is one process, so 1 is "
                    "allowed (several GPUs of one node may be asked for; the process uses one)"
                )
        self._slurm = str(config._target_).endswith("SlurmLauncher")

    def tie(self, folder: Path) -> Tie:
        """See :class:`Local`."""
        return SchedulerTie()

    @contextmanager
    def attended(self, folder: Path) -> Iterator[None]:
        """Slurm's jobs go on without this process; those of this machine are told to end."""
        from submitit.core.utils import UncompletedJobError

        if os.getcwd() not in sys.path and "" not in sys.path:
            # A job is `python -m submitit...`, which looks into the present folder first.
            os.environ.setdefault("PYTHONSAFEPATH", "1")
        try:
            with nullcontext() if self._slurm else _telling_children():
                yield
        except UncompletedJobError as error:
            if stopping.requested():
                _await_children()
                return
            first = next(filter(None, str(error).splitlines()), "no reason is known")
            raise UserError(
                f"a job ended without a result ({first}); its log is in {folder / '.submitit'}, "
                "and other jobs may still run"
            ) from error
        except stopping.Stopped:
            log.info(
                "the jobs go on: squeue --me lists them, scancel ends them, and python -m "
                "experiments.report %s shows what is finished",
                folder,
            )


class Ray(Local):
    """Ray: processes of this machine, or of a cluster's that share a disk.

    Args:
        config: of the launcher.
    """

    away = True

    def __init__(self, config: DictConfig) -> None:
        self._init = OmegaConf.to_container(config.ray.init, resolve=True)

    def tie(self, folder: Path) -> Tie:
        """See :class:`Local`."""
        return ClusterTie(Path.cwd(), folder / STOP)

    @contextmanager
    def attended(self, folder: Path) -> Iterator[None]:
        """See :class:`Local`; Ray is started, and ended again unless others have started it."""
        import ray

        stop = folder / STOP
        folder.mkdir(parents=True, exist_ok=True)
        stop.unlink(missing_ok=True)
        assert isinstance(self._init, dict)
        given: dict[str, Any] = {str(key): value for key, value in self._init.items()}
        handler = signal.getsignal(signal.SIGTERM)
        ray.init(**given)
        signal.signal(signal.SIGTERM, handler)  # ray.init has put one of its own in its place
        try:
            with stopping.telling(partial(write_atomically, stop, "")):
                yield
        except ray.exceptions.RayError as error:
            first = next(filter(None, str(error).splitlines()), type(error).__name__)
            raise UserError(f"Ray lost a job of the sweep: {first}") from error
        finally:
            ray.shutdown()
            stop.unlink(missing_ok=True)


def _telling_children() -> AbstractContextManager[None]:
    return stopping.telling(partial(workers.tell, os.getpid()))


def _await_children() -> None:
    """Wait until the jobs of this machine have saved their state."""
    import psutil

    jobs = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # it has ended already
            if "submitit" in " ".join(child.cmdline()):
                jobs.append(child)
    psutil.wait_procs(jobs, workers.PATIENCE)


def launcher_of(config: DictConfig) -> Local:
    """What the launcher of a configuration asks for.

    Args:
        config: ``hydra.launcher``.

    Raises:
        UserError: an option of it that does not suit a sweep of these runs.
    """
    name = str(config._target_).rpartition(".")[2]
    if name == "JoblibLauncher":
        return Workers()
    if name in ("LocalLauncher", "SlurmLauncher"):
        return Submitit(config)
    if name == "RayLauncher":
        return Ray(config)
    return Local()
