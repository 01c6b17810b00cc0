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

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from bilevel.errors import UserError
from experiments import report
from experiments.cli import resume
from experiments.cli.command_line import (
    FAILURE,
    CommandLine,
    compose_config,
    fail,
    one_sentence,
    user_modules,
)
from experiments.cli.messages import USER_ERRORS, sentence
from experiments.config import schema

log = logging.getLogger(__name__)


def main(words: Sequence[str] | None = None) -> None:
    """The program: checks everything that can be checked, then lets Hydra start the run(s)."""
    schema.register()
    words = sys.argv[1:] if words is None else list(words)
    with one_sentence():
        line = CommandLine.parse(words)
        if not line.flags:  # --help and the like run nothing
            overrides = resume.expand(line)
            if not line.multirun:
                # Before Hydra makes a folder: what is wrong now leaves nothing behind.
                from experiments.config.plan import Plan

                Plan.of(compose_config(overrides, line.config_dir))
            words = line.words(overrides)
        sys.argv[1:] = words
        _hydra_main()
    if report.failures():
        raise SystemExit(FAILURE)


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def _hydra_main(config: DictConfig) -> float:
    return job(config)


def job(config: DictConfig) -> float:
    """One run, in Hydra's output folder; returns the primary metric (for sweepers that search)."""
    from experiments.config.plan import Plan
    from experiments.results import record as result
    from experiments.training.job import execute

    hydra_config = HydraConfig.get()
    user_modules(hydra_config.runtime.config_sources)
    folder = Path(hydra_config.runtime.output_dir)
    try:
        with resources_as_sentences(folder):
            values = execute(Plan.of(config, hydra_config), folder)
    except USER_ERRORS as error:
        log.debug("stopped by", exc_info=error)
        if hydra_config.mode == RunMode.MULTIRUN:
            # The other runs go on; the table at the end says which failed, and so does the status.
            log.error("error: %s", sentence(error))
            return math.nan
        logging.getLogger().handlers = _files_only()
        log.error("error: %s", sentence(error))
        fail(error)
    print(result.summary(values, folder))
    score = values["metrics"][values["primary_metric"]]
    return math.nan if score is None else float(score)  # None: not to be computed here


@contextmanager
def resources_as_sentences(folder: Path) -> Iterator[None]:
    """A full disk or memory, and Ctrl-C, are no defects: say them in a sentence."""
    import torch

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
