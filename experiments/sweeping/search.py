"""Search options by the validation score with Optuna, and go on with a search that was stopped.

Hydra's plug-in asks a study for trials and tells it what became of them; a trial whose sweep was
ended in between stays open, and the plug-in itself would ask for others, in folders that are taken.
Here a study's trial K is the sweep's job K, open trials are run first, and then what is missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, Transformer
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from bilevel.errors import UserError

__all__ = ["Search"]

SWEEPER = "OptunaSweeper"


class Search:
    """A study of Optuna.

    Args:
        config: of the sweep; the seed of its sampler and its number of trials are changed by
            :meth:`open` where a study goes on.
        words: the options of the runs, as given.

    Raises:
        UserError: nothing to search, a search over seeds, or another direction than up.
    """

    def __init__(self, config: DictConfig, words: Sequence[str]) -> None:
        self._sweeper = config.hydra.sweeper
        self._resume = config.run.resume is not None
        self._words = list(words)
        given = [f"{key}={value}" for key, value in (self._sweeper.params or {}).items()]
        parsed = OverridesParser.create().parse_overrides([*given, *words])
        self._space = {o.get_key_element(): o for o in parsed if o.is_sweep_override()}
        self._fixed = {
            o.get_key_element(): o.get_value_element_as_str()
            for o in parsed
            if not o.is_sweep_override()
        }
        self._space = {key: o for key, o in self._space.items() if key not in self._fixed}
        if not self._space and self._sweeper.custom_search_space is None:
            raise UserError(
                "hydra/sweeper=optuna: nothing is to be searched; give an option as "
                "NAME='interval(1e-4,1e-2)', 'tag(log,interval(1e-4,1e-2))', 'range(1,9)' or a,b"
            )
        if "seed" in self._space:
            raise UserError(
                "hydra/sweeper=optuna does not search over seed, which would choose the luckiest "
                "run: search with one seed, then run what it found with several"
            )
        if str(self._sweeper.direction).rpartition(".")[2] != "maximize":
            raise UserError(
                f"hydra.sweeper.direction={self._sweeper.direction}: a run returns its validation "
                "score, the larger the better, so maximize is allowed"
            )
        self._before: list[Any] = []
        self._scored = False

    @classmethod
    def of(cls, config: DictConfig, words: Sequence[str]) -> Search | None:
        """The search that a sweep is, None if it is none."""
        target = str(config.hydra.sweeper._target_)
        return cls(config, words) if target.rpartition(".")[2] == SWEEPER else None

    def example(self) -> list[str]:
        """The words of one run that the search may ask for."""
        fixed = [f"{key}={value}" for key, value in self._fixed.items()]
        return [*fixed, *(f"{key}={_first(o)}" for key, o in self._space.items())]

    def open(self, folder: Path) -> None:
        """Look at what the study holds already, before the sweeper is made.

        Args:
            folder: of the sweep.

        Raises:
            UserError: it holds trials, and the sweep is not one that goes on.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        folder.mkdir(parents=True, exist_ok=True)
        name, storage = self._sweeper.study_name, self._sweeper.storage
        if storage is None:
            return
        study = optuna.create_study(
            study_name=name, storage=storage, direction="maximize", load_if_exists=True
        )
        self._before = study.get_trials(deepcopy=False)
        if self._before and not self._resume:
            raise UserError(
                f"the study {name} in {storage} holds {len(self._before)} trials already: add "
                "run.resume=auto (and the sweep's hydra.sweep.dir) to go on with it, or give "
                "another hydra.sweeper.study_name"
            )
        complete = optuna.trial.TrialState.COMPLETE
        self._scored = any(trial.state == complete for trial in self._before)
        for trial in self._before:  # of a sweep that was killed while it asked
            if not trial.state.is_finished() and not self._whole(trial):
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        seed = self._sweeper.sampler.get("seed")
        if seed is not None and self._before:  # or else the sampler repeats itself
            self._sweeper.sampler.seed = seed + len(self._before)

    def run(self, sweeper: Any) -> None:
        """Run what is open, then what is missing.

        Args:
            sweeper: Hydra's, whose launcher is ours by now.

        Raises:
            UserError: no run has a validation score.
        """
        import optuna

        inner = sweeper.sweeper
        if self._before:
            study = optuna.load_study(self._sweeper.study_name, self._sweeper.storage)
            trials = study.get_trials(deepcopy=False)
            open_ones = [trial for trial in trials if not trial.state.is_finished()]
            for batch in _consecutive(open_ones):
                words = [self._words_of(trial.params) for trial in batch]
                found = inner.launcher.launch(words, initial_job_idx=batch[0].number)
                for trial, one in zip(batch, found, strict=True):
                    if one.status == JobStatus.COMPLETED:
                        study.tell(trial.number, one.return_value)
                    else:
                        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            inner.job_idx = len(trials)
            inner.n_trials -= sum(map(self._whole, trials))
        try:
            sweeper.sweep(arguments=self._words)
        except ValueError as error:  # the plug-in's, which looks for the best
            if self._scored:
                raise
            raise UserError(
                "no run of the search has a validation score: each said why in its run.log (a task "
                "without validation data has none)"
            ) from error

    def look(self, found: Iterable[JobReturn]) -> None:
        """Mark runs without a score as failed, which the plug-in sees by nothing but an exception.

        Args:
            found: what became of the runs.
        """
        for one in found:
            if one.status == JobStatus.COMPLETED and math.isnan(one.return_value):
                one.status = JobStatus.FAILED
                one.return_value = UserError("no validation score: see its run.log")
            self._scored |= one.status == JobStatus.COMPLETED

    def _whole(self, trial: Any) -> bool:
        """Whether all of a trial's values were chosen, and none that is not to be searched."""
        names = trial.params.keys()
        if self._sweeper.custom_search_space is not None:  # which may name any
            return bool(names >= self._space.keys())
        return bool(names == self._space.keys())

    def _words_of(self, params: dict[str, Any]) -> list[str]:
        return [f"{key}={value}" for key, value in {**params, **self._fixed}.items()]


def _first(override: Override) -> Any:
    """A value that a search may ask for."""
    value = override.value()
    if isinstance(value, IntervalSweep):
        return value.start
    return next(iter(override.sweep_iterator(transformer=Transformer.encode)))


def _consecutive(trials: Iterable[Any]) -> list[list[Any]]:
    """Trials in groups of numbers without a gap, as a launcher numbers its jobs."""
    numbered = enumerate(sorted(trials, key=lambda trial: trial.number))
    groups = groupby(numbered, lambda pair: pair[1].number - pair[0])
    return [[trial for _, trial in group] for _, group in groups]
