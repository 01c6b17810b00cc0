"""Run a sweep: what Hydra's sweeper asks for, by Hydra's launcher, until it is told to end."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationResolutionError

from bilevel.errors import UserError
from experiments.cli import places, stopping
from experiments.cli.messages import refused, sentence
from experiments.config.composition import NAME
from experiments.results.fresh_folder import refuse_others
from experiments.sweeping.launchers import launcher_of
from experiments.sweeping.plugins import with_settings
from experiments.sweeping.search import Search
from experiments.sweeping.ties import Tie

__all__ = ["Sweep", "SweepJob", "launched"]

log = logging.getLogger(__name__)

RESUME = "run.resume"


class SweepJob(Protocol):
    """One run of a sweep; ``tie`` is what joins it to the sweep."""

    def __call__(self, config: DictConfig, *, tie: Tie) -> float:
        """Run it; returns its validation score."""
        ...


class Sweep:
    """Runs that a sweeper asks for: each combination of the overrides' values, or a search.

    What ``Hydra.multirun`` does, but for ending early, for the look at the configurations before
    there is a folder, and for a search that goes on where it was stopped.

    Args:
        app: Hydra.
        overrides: as given.

    Attributes:
        folder: where the jobs' folders go.

    Raises:
        UserError: an option of the launcher or sweeper that does not suit.
    """

    def __init__(self, app: Hydra, overrides: Sequence[str]) -> None:
        self._app = app
        self._config = self._composed(overrides)
        self._launcher = launcher_of(self._config.hydra.launcher)
        if self._launcher.away:
            folder = Path(self._config.hydra.sweep.dir).absolute()
            said = any(word.partition("=")[0] == RESUME for word in overrides)
            more = [places.word("hydra.sweep.dir", folder), *([] if said else [f"{RESUME}=auto"])]
            self._config = self._composed([*overrides, *more])
        words = OmegaConf.to_container(self._config.hydra.overrides.task, resolve=False)
        assert isinstance(words, list)
        self._words = [str(word) for word in words]
        self.folder = Path(self._config.hydra.sweep.dir)
        self._search = Search.of(self._config, self._words)
        self._lost: list[str] = []

    def _composed(self, overrides: Sequence[str]) -> DictConfig:
        return self._app.compose_config(
            config_name=NAME,
            overrides=[*with_settings(overrides), f"hydra.mode={RunMode.MULTIRUN.name}"],
            run_mode=RunMode.MULTIRUN,
        )

    def configs(self) -> Iterator[DictConfig]:
        """The jobs' configurations; of a search one that it may ask for."""
        loader = self._app.config_loader
        if self._search is not None:
            yield loader.load_sweep_config(self._config, self._search.example())
        if self._config.hydra.sweeper._target_.rpartition(".")[2] != BasicSweeper.__name__:
            return
        overrides = OverridesParser.create(config_loader=loader).parse_overrides(self._words)
        (combinations,) = BasicSweeper.split_arguments(overrides, None)
        for words in combinations:
            yield loader.load_sweep_config(self._config, list(words))

    def refuse_used(self) -> None:
        """Look into the folders that the jobs' runs are to begin in.

        Hydra writes a job's ``.hydra`` before the job can look, over that of the run which is
        there already. Runs that are resumed, and what a search will ask for, are not looked at.

        Raises:
            UserError: one of them holds something else.
        """
        if self._search is not None:
            return
        for number, config in enumerate(self.configs()):
            if config.run.resume is not None:
                continue
            with open_dict(config):
                config.hydra.job.num = number
            # A subdir that only a job at work can tell (${hydra:...}) is looked at by the job.
            with suppress(InterpolationResolutionError):
                refuse_others(self.folder / config.hydra.sweep.subdir)

    def run(self, job: SweepJob) -> None:
        """Run the jobs; a request to end ends it after those that are at work.

        Raises:
            UserError: a job was ended from outside, or a search has found nothing.
        """
        callbacks = Callbacks(self._config)
        callbacks.on_multirun_start(config=self._config, config_name=NAME)
        if self._search is not None:
            self._search.open(self.folder)
        sweeper: Any = Plugins.instance().instantiate_sweeper(
            config=self._config,
            hydra_context=HydraContext(config_loader=self._app.config_loader, callbacks=callbacks),
            task_function=partial(job, tie=self._launcher.tie(self.folder)),
        )
        launcher = sweeper.launcher if self._search is None else sweeper.sweeper.launcher
        launcher.launch = partial(self._launch, launcher.launch)
        try:
            with self._launcher.attended(self.folder), suppress(_EndedError):
                if self._search is None:
                    sweeper.sweep(arguments=self._words)
                else:
                    self._search.run(sweeper)
        finally:
            callbacks.on_multirun_end(config=self._config, config_name=NAME)
        if self._lost:
            raise UserError(f"{len(self._lost)} of the jobs could not begin: {self._lost[0]}")

    def _launch(
        self, launch: Any, jobs: Sequence[Sequence[str]], initial_job_idx: int
    ) -> list[JobReturn]:
        """Launch some jobs.

        Raises:
            _EndedError: of a search that was asked to end, so that it asks for no more.
        """
        found, lost = launched(launch, jobs, initial_job_idx)
        self._lost += lost
        if self._search is not None:
            if stopping.requested():
                raise _EndedError
            self._search.look(found)
        return found


def launched(
    launch: Any, jobs: Sequence[Sequence[str]], first: int = 0
) -> tuple[list[JobReturn], list[str]]:
    """Launch jobs, none after a request to end.

    Args:
        launch: the launcher's method.
        jobs: the words of each.
        first: number of the first.

    Returns:
        What became of each, nan where it went wrong outside of the run; and what went wrong so.
    """
    found = list(launch(_UntilStopped(jobs), initial_job_idx=first))
    lost = []
    for one in found:
        if one.status == JobStatus.FAILED:
            error = one._return_value
            lost.append(refused(error) or sentence(error))
            log.error("error: %s: %s", one.working_dir, lost[-1])
            one.return_value = math.nan
            one.status = JobStatus.COMPLETED
    return found, lost


class _EndedError(Exception):
    """A search was asked to end: what it asked for last is asked for again when it goes on."""


class _UntilStopped(list[Any]):
    """A sweep's jobs, no further ones after a request to end."""

    def __iter__(self) -> Iterator[Any]:
        for job in super().__iter__():
            if stopping.requested():
                return
            yield job
