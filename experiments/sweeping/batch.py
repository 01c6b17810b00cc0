"""Run any runs, each in a folder of its own, by one of Hydra's launchers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from hydra._internal.callbacks import Callbacks
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.types import HydraContext, RunMode

from experiments.cli import places
from experiments.config.composition import NAME, hydra_app
from experiments.sweeping.launchers import launcher_of
from experiments.sweeping.plugins import check_installed, with_settings
from experiments.sweeping.sweep import SweepJob, launched

__all__ = ["run_batch"]


def run_batch(
    words: Sequence[str], folder: Path, runs: Sequence[tuple[Path, Sequence[str]]], job: SweepJob
) -> list[JobReturn]:
    """Run all, as many at once as the launcher does.

    Args:
        words: ``hydra/launcher=NAME`` and options of it.
        folder: where the launcher keeps what is its own.
        runs: folder and words of each.
        job: makes one.

    Returns:
        What became of each.

    Raises:
        UserError: an option of the launcher that does not suit, or a job was ended from outside.
    """
    check_installed(words)
    folder = folder.absolute()
    with hydra_app() as app:
        config = app.compose_config(
            config_name=NAME,
            overrides=[
                *with_settings(words),
                f"hydra.mode={RunMode.MULTIRUN.name}",
                places.word("hydra.sweep.dir", folder),
            ],
            run_mode=RunMode.MULTIRUN,
        )
        kind = launcher_of(config.hydra.launcher)
        launcher = Plugins.instance().instantiate_launcher(
            config=config,
            hydra_context=HydraContext(
                config_loader=app.config_loader, callbacks=Callbacks(config)
            ),
            task_function=partial(job, tie=kind.tie(folder)),
        )
        jobs = [[*given, *_place(place.absolute())] for place, given in runs]
        with kind.attended(folder):
            return launched(launcher.launch, jobs)[0]
    return []


def _place(folder: Path) -> list[str]:
    return [
        places.word("hydra.sweep.dir", folder.parent),
        places.word("hydra.sweep.subdir", folder.name),
    ]
