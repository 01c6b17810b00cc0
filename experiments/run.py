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
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from bilevel.errors import UserError
from experiments import report
from experiments.cli import help as help_page
from experiments.cli import resume
from experiments.cli.command_line import FAILURE, CommandLine, explain, fail, one_sentence
from experiments.cli.messages import USER_ERRORS, sentence
from experiments.cli.words import check_place, check_words
from experiments.config import hydra_runs
from experiments.config.composition import composed, hydra_app
from experiments.config.plan import Plan

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
                hydra_runs.one(app, lambda config: execute(plan), config)
    if report.failures():
        raise SystemExit(FAILURE)


def job(config: DictConfig) -> float:
    """One run of a sweep; returns the primary metric (for sweepers that search)."""
    return execute(lambda: Plan.of(config, HydraConfig.get()))


def execute(plan: Any) -> float:
    """Run a plan in Hydra's output folder.

    Args:
        plan: a :class:`Plan`, or a function that makes one.

    Returns:
        The primary metric; nan where there is none, or where a sweep's run failed.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        with resources_as_sentences(folder):
            from experiments.results import record  # here: they load torch and transformers
            from experiments.training import job as training

            values = training.execute(plan if isinstance(plan, Plan) else plan(), folder)
    except USER_ERRORS as error:
        log.debug("stopped by", exc_info=error)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            # The other runs go on; the table at the end says which failed, and so does the status.
            log.error("error: %s", sentence(error))
            return math.nan
        logging.getLogger().handlers = _files_only()
        log.error("error: %s", sentence(error))
        fail(error)
    print(record.summary(values, folder))
    score = values["metrics"][values["primary_metric"]]
    return math.nan if score is None else float(score)  # None: not to be computed here


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
