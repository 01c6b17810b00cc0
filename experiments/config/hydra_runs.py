"""Start what Hydra runs: one job of a composed configuration, or a question about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.utils import run_job
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from experiments.config.composition import NAME, hydra_app

__all__ = ["answer", "one"]

Job = Callable[[DictConfig], float]


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
