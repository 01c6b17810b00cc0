"""Start what Hydra runs: one job of a composed configuration, a sweep, or a question about it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import run_job
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from bilevel.errors import UserError
from experiments.cli import stopping, workers
from experiments.config.composition import NAME, hydra_app

__all__ = ["Sweep", "answer", "one"]

Job = Callable[[DictConfig], float]


class SweepJob(Protocol):
    """One run of a sweep; ``parent`` is the process that started its worker, if there is one."""

    def __call__(self, config: DictConfig, *, parent: int | None = None) -> float: ...


def one(app: Hydra, job: Job, config: DictConfig) -> Any:
    """Run a job in a folder of its own, with its log and ``.hydra``; returns what it returns.

    What ``Hydra.run`` does, but for composing the configuration a second time.
    """
    config.hydra.mode = RunMode.RUN
    callbacks = Callbacks(config)
    callbacks.on_run_start(config=config, config_name=NAME)
    found = run_job(
        hydra_context=HydraContext(config_loader=app.config_loader, callbacks=callbacks),
        task_function=job,
        config=config,
        job_dir_key="hydra.run.dir",
        job_subdir_key=None,
    )
    callbacks.on_run_end(config=config, config_name=NAME, job_return=found)
    return found.return_value  # raises what the job raised


class Sweep:
    """Each combination of the overrides' values is a job.

    What ``Hydra.multirun`` does, but for ending early, and for the look at the configurations
    before there is a folder.

    Args:
        app: Hydra.
        overrides: as given.

    Attributes:
        folder: where the jobs' folders go.
    """

    def __init__(self, app: Hydra, overrides: Sequence[str]) -> None:
        self._app = app
        self._config = app.compose_config(
            config_name=NAME,
            overrides=[*overrides, f"hydra.mode={RunMode.MULTIRUN.name}"],
            run_mode=RunMode.MULTIRUN,
        )
        words = OmegaConf.to_container(self._config.hydra.overrides.task, resolve=False)
        assert isinstance(words, list)
        self._words = [str(word) for word in words]
        self.folder = Path(self._config.hydra.sweep.dir)

    def configs(self) -> Iterator[DictConfig]:
        """The jobs' configurations; none where a sweeper chooses them as it goes."""
        if self._config.hydra.sweeper._target_.rpartition(".")[2] != BasicSweeper.__name__:
            return
        loader = self._app.config_loader
        overrides = OverridesParser.create(config_loader=loader).parse_overrides(self._words)
        (combinations,) = BasicSweeper.split_arguments(overrides, None)
        for words in combinations:
            yield loader.load_sweep_config(self._config, list(words))

    def run(self, job: SweepJob) -> None:
        """Run the jobs; a request to end ends it after those that are at work.

        Raises:
            UserError: a worker was ended from outside.
        """
        callbacks = Callbacks(self._config)
        callbacks.on_multirun_start(config=self._config, config_name=NAME)
        # Processes of its own; other launchers have other machines, which are told by others.
        local = "joblib" in str(self._config.hydra.launcher._target_)
        here = os.getpid()
        context = HydraContext(config_loader=self._app.config_loader, callbacks=callbacks)
        sweeper: Any = Plugins.instance().instantiate_sweeper(
            config=self._config,
            hydra_context=context,
            task_function=partial(job, parent=here) if local else job,
        )
        launch = sweeper.launcher.launch
        sweeper.launcher.launch = lambda jobs, initial_job_idx: launch(
            _UntilStopped(jobs), initial_job_idx=initial_job_idx
        )
        try:
            if local:
                with stopping.telling(partial(workers.tell, here)):
                    sweeper.sweep(arguments=self._words)
            else:
                sweeper.sweep(arguments=self._words)
        except BrokenProcessPool as error:
            raise UserError(
                "a process of the sweep was ended from outside, as happens when the machine is out "
                "of memory: try a smaller hydra.launcher.n_jobs"
            ) from error
        finally:
            callbacks.on_multirun_end(config=self._config, config_name=NAME)


class _UntilStopped(list[Any]):
    """A sweep's jobs, no further ones after a request to end."""

    def __iter__(self) -> Iterator[Any]:
        for job in super().__iter__():
            if stopping.requested():
                return
            yield job


def answer(words: Sequence[str], config_dir: str | None) -> None:
    """Answer Hydra's own flags: ``--cfg job``, ``--info``, ``--shell-completion`` and the like."""
    parser = get_args_parser()
    given = parser.parse_args(list(words))
    with hydra_app(config_dir) as app:
        if given.cfg is not None:
            app.show_cfg(NAME, given.overrides, given.cfg, given.package, given.resolve)
        elif given.info is not None:
            app.show_info(given.info, NAME, given.overrides)
        elif given.shell_completion:
            app.shell_completion(NAME, given.overrides)
        else:
            app.hydra_help(NAME, args_parser=parser, args=given)
