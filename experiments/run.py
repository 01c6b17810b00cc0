"""Train and score one method on one task, or, with ``-m``, several.

    python -m experiments.run method=autolora task=sst2 task.data_dir=DIR model=minilm

``python -m experiments.run --help`` explains the options.
"""

from __future__ import annotations

import errno
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from bilevel.errors import UserError, printable
from experiments import report
from experiments.cli import help as help_page
from experiments.cli import resume
from experiments.cli.command_line import FAILURE, CommandLine, explain, fail, one_sentence
from experiments.cli.held_log import HeldLog
from experiments.cli.messages import USER_ERRORS, sentence
from experiments.cli.words import check_place, check_words
from experiments.config import hydra_runs
from experiments.config.composition import composed, hydra_app
from experiments.config.plan import Plan
from experiments.results.fresh_folder import refuse_others

if TYPE_CHECKING:
    from experiments.tasks.task import TaskData

log = logging.getLogger(__name__)


def main(words: Sequence[str] | None = None) -> None:
    """The program: checks everything that can be checked, then runs it."""
    with one_sentence():
        words = sys.argv[1:] if words is None else words
        line = CommandLine.parse(words)
        if line.wants_help:
            explain(help_page.text(line))
            return
        if line.flags:  # --cfg job and the like run nothing
            hydra_runs.answer(words, line.config_dir)
            return
        with hydra_app(line.config_dir) as app:
            check_words(line.overrides, line.multirun, app.config_loader.list_groups(""))
        overrides = resume.expand(line)
        with hydra_app(line.config_dir) as app:
            if line.multirun:
                hydra_runs.many(app, job, overrides)
            else:
                config = composed(app, overrides)
                # Before there is a folder: what is wrong now leaves nothing behind.
                plan = Plan.of(config)
                check_place(config.hydra.run.dir)
                if not plan.resume:
                    refuse_others(Path(config.hydra.run.dir))
                said = HeldLog()
                task = None if plan.resume else read_data(plan, said)
                hydra_runs.one(app, lambda config: execute(plan, task, said), config)
    if report.failures():
        raise SystemExit(FAILURE)


def job(config: DictConfig) -> float:
    """One run of a sweep; returns its validation score (for sweepers that search)."""
    return execute(lambda: Plan.of(config, HydraConfig.get()))


def read_data(plan: Plan, said: HeldLog) -> TaskData:
    """The data of a run that has no folder yet.

    Args:
        plan: of the run.
        said: gets what is logged meanwhile, for the run's own log.

    Raises:
        UserError: the data cannot be had, or does not suit the method.
    """
    from experiments.cli.quiet import quiet  # here: they load torch and transformers
    from experiments.training.fine_tuning_job import load_task

    quiet()
    with said.holding():
        return load_task(plan)


def execute(plan: Any, task: TaskData | None = None, said: HeldLog | None = None) -> float:
    """Run a plan in Hydra's output folder.

    Args:
        plan: a :class:`Plan`, or a function that makes one.
        task: its data, if it has been read already.
        said: what was logged before there was a folder.

    Returns:
        The score on validation data, the larger the better; nan where there is none, or where a
        sweep's run failed.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    if said is not None:
        said.say()
    try:
        with resources_as_sentences(folder):
            from experiments.results import record  # here: they load torch and transformers
            from experiments.training import job as training

            plan = plan if isinstance(plan, Plan) else plan()
            values = training.execute(plan, folder, task)
    except USER_ERRORS as error:
        log.debug("stopped by", exc_info=error)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            # The other runs go on; the table at the end says which failed, and so does the status.
            log.error("error: %s", sentence(error))
            return math.nan
        logging.getLogger().handlers = _files_only()
        log.error("error: %s", sentence(error))
        fail(error)
    print(printable(record.summary(values, folder)))
    score = record.validation_score(values)
    if math.isnan(score) and HydraConfig.get().mode == RunMode.MULTIRUN:
        log.info("no validation data: a sweeper that searches is told nan, never the test score")
    return score


@contextmanager
def resources_as_sentences(folder: Path) -> Iterator[None]:
    """A full disk or memory, and Ctrl-C, are no defects: say them in a sentence."""
    import torch  # here: what is wrong in the configuration is told without it

    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"the disk is full ({error.filename or folder}): free some space and continue with "
            f"run.resume={folder}"
        ) from error
    except torch.OutOfMemoryError as error:
        raise UserError(
            "the accelerator is out of memory: lower train.batch_size (and raise "
            "train.gradient_accumulation), task.max_length, or use engine.precision=bf16"
        ) from error
    except KeyboardInterrupt as error:
        raise UserError(f"interrupted; continue with run.resume={folder}") from error


def _files_only() -> list[logging.Handler]:
    handlers = logging.getLogger().handlers
    return [handler for handler in handlers if isinstance(handler, logging.FileHandler)]


if __name__ == "__main__":
    main()
