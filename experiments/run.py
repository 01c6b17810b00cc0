"""Train and score one method on one task, or, with ``-m``, several.

    python -m experiments.run method=autolora task=sst2 task.data_dir=DIR model=minilm

``python -m experiments.run --help`` explains the options.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from bilevel import launcher
from bilevel.errors import StorageError, UserError, printable
from experiments import report
from experiments.cli import help as help_page
from experiments.cli import places, ranks, resume, stopping
from experiments.cli.command_line import FAILURE, CommandLine, explain, fail, one_sentence
from experiments.cli.held_log import HeldLog
from experiments.cli.messages import USER_ERRORS, refused, sentence
from experiments.cli.words import check_place, check_words
from experiments.config import hydra_runs
from experiments.config.composition import composed, hydra_app
from experiments.config.plan import Plan
from experiments.results.fresh_folder import refuse_others
from experiments.sweeping.plugins import check_installed
from experiments.sweeping.sweep import Sweep
from experiments.sweeping.ties import Tie
from experiments.training import checksums

if TYPE_CHECKING:
    from bilevel.distributed import World
    from experiments.tasks.task import TaskData

log = logging.getLogger(__name__)


def main(words: Sequence[str] | None = None) -> None:
    """The program: checks everything that can be checked, then runs it."""
    with stopping.orderly(), one_sentence(several=True):
        words = list(sys.argv[1:] if words is None else words)
        line = CommandLine.parse(words)
        if line.wants_help:
            explain(help_page.text(line))
            return
        if line.flags:  # --cfg job and the like run nothing
            if launcher.rank() == 0:
                hydra_runs.answer(words, line.config_dir)
            return
        with hydra_app(line.config_dir) as app:
            check_words(line.overrides, line.multirun, app.config_loader.list_groups(""))
        check_installed(line.overrides)
        if launcher.processes() > 1:
            _together(line)
            return
        overrides = resume.expand(line)
        # What a full disk keeps from run.log or from a terminal that is gone is no news.
        logging.raiseExceptions = False
        with hydra_app(line.config_dir) as app:
            if line.multirun:
                _sweep(Sweep(app, overrides), words)
            else:
                config = composed(app, overrides)
                # Before there is a folder: what is wrong now leaves nothing behind.
                plan = Plan.of(config)
                check_place(config.hydra.run.dir)
                _check_folder(plan, Path(config.hydra.run.dir))
                said = HeldLog()
                task = None if plan.resume else read_data(plan, said)
                hydra_runs.one(app, lambda config: execute(plan, task, said), config)


def _check_folder(plan: Plan, folder: Path) -> None:
    """Refuse a folder of another run, before Hydra writes into it.

    Raises:
        UserError: it is one.
    """
    if not plan.resume:
        refuse_others(folder)
    elif checksums.moved(folder, plan.config):
        from experiments.training.moved import check_moved  # torch, for what was moved only

        check_moved(plan, folder)


def _together(line: CommandLine) -> None:
    """One run on the processes that a launcher has started.

    Raises:
        UserError: a sweep is asked for, or as of a run on one process.
    """
    if line.multirun:
        raise UserError(
            f"-m starts the runs of a sweep, and a launcher has started {launcher.processes()} "
            "processes for one run: leave -m out, or start the sweep with python -m"
        )
    from bilevel import distributed  # here: they load torch and transformers
    from experiments.training.processes import shared

    world = distributed.setup()
    if world.rank:
        _take_part(line, world)
        return
    logging.raiseExceptions = False
    overrides = resume.expand(line)
    with hydra_app(line.config_dir) as app:
        config = composed(app, overrides)
        plan = Plan.of(config)
        folder = Path(config.hydra.run.dir)
        check_place(config.hydra.run.dir)
        _check_folder(plan, folder)
        # What only this process can see: the newest unfinished run, the time of day in a name.
        distributed.from_first((overrides, folder), world)
        plan = shared(plan, folder, world)
        said = HeldLog()
        task = None if plan.resume else read_data(plan, said)
        hydra_runs.one(app, lambda config: execute(plan, task, said), config)
        distributed.cleanup(world)


def _take_part(line: CommandLine, world: World) -> None:
    """What a process does that is not the first: its share of the work, and no word."""
    from bilevel import distributed
    from experiments.training import job as training
    from experiments.training.processes import shared

    ranks.hush()
    overrides, folder = distributed.from_first(([""], Path()), world)
    with hydra_app(line.config_dir) as app:
        config = composed(app, overrides)
        plan = shared(Plan.of(config), folder, world)
        task = None if plan.resume else read_data(plan, HeldLog())
        try:
            with stopping.heeding():
                training.execute(plan, folder, task)
        except (Exception, KeyboardInterrupt) as error:
            text = _told(error, _continuation(folder, config.hydra))
            if text is None:
                raise
            fail(text, stopping.status() if _interrupted(error) else FAILURE, error)
        distributed.cleanup(world)


def _sweep(sweep: Sweep, words: Sequence[str]) -> None:
    """Run a sweep; however it ends, its table is written."""
    check_place(str(sweep.folder), "hydra.sweep.dir")
    _refuse_if_all_are_wrong(sweep.configs())
    sweep.refuse_used()
    try:
        sweep.run(job)
    finally:
        failed = report.conclude(sweep.folder, "not finished" if stopping.requested() else "failed")
    if stopping.requested():
        place = places.word("hydra.sweep.dir", sweep.folder)
        line = places.shell_line([*words, "run.resume=auto", place])
        print(f"error: interrupted; continue with: {line}", file=sys.stderr)
        raise SystemExit(stopping.status())
    if failed:
        raise SystemExit(FAILURE)


def _refuse_if_all_are_wrong(configs: Iterable[DictConfig]) -> None:
    """Raise the first run's mistake if no run of a sweep could begin; otherwise each tells its own.

    Raises:
        UserError: before there is a folder.
    """
    first: Exception | None = None
    for config in configs:
        try:
            read_data(Plan.of(config), HeldLog())  # each run says it again, in its own log
            return
        except USER_ERRORS as error:
            first = first or error
    if first is not None:
        raise first


def job(config: DictConfig, *, tie: Tie) -> float:
    """One run of a sweep; returns its validation score (for sweepers that search).

    Args:
        config: of the run.
        tie: what joins it to the sweep, and to the scheduler that runs it.
    """
    with tie.held():
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
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    if said is not None:
        said.say()
    try:
        with stopping.heeding():
            from experiments.results import record  # here: they load torch and transformers
            from experiments.training import job as training

            plan = plan if isinstance(plan, Plan) else plan()
            values = training.execute(plan, folder, task)
    except (Exception, KeyboardInterrupt) as error:
        text = _told(error, _continuation(folder, HydraConfig.get()))
        log.debug("stopped by", exc_info=error)
        if not sweep:
            if text is None:
                raise
            logging.getLogger().handlers = _files_only()
            log.error("error: %s", text)
            fail(text, stopping.status() if _interrupted(error) else FAILURE, error)
        # The other runs go on; the table at the end says which failed, and so does the status.
        if text is None:
            _traceback_for_the_log(error)
            text = f"a defect, {type(error).__name__}: {error} (run.log has the traceback)"
        log.error("error: %s", text)
        return math.nan
    print(printable(record.summary(values, folder)))
    score = record.validation_score(values)
    if math.isnan(score) and sweep:
        log.info("no validation data: a sweeper that searches is told nan, never the test score")
    return score


def _told(error: BaseException, continuation: str) -> str | None:
    """What ended a run, in a sentence; None if it was a defect of the program."""
    if _interrupted(error):
        return f"interrupted; continue with: {continuation}"
    if ranks.lost(error):
        return f"{_reason(error)}; continue with: {continuation}"
    text = sentence(error) if isinstance(error, USER_ERRORS) else refused(error)
    if text is not None:
        storage = not isinstance(error, USER_ERRORS) or isinstance(error, StorageError)
        return f"{text}; then continue with: {continuation}" if storage else text
    import torch  # here: what is wrong in the configuration is told without it

    if isinstance(error, torch.OutOfMemoryError):
        return (
            "the accelerator is out of memory: lower train.batch_size (and raise "
            "train.gradient_accumulation), task.max_length, or use engine.precision=bf16"
        )
    return None


def _reason(error: BaseException) -> str:
    try:
        return ranks.reason(error)
    except KeyboardInterrupt:  # the launcher ends who is left
        return str(error)


def _interrupted(error: BaseException) -> bool:
    """Whether a signal ended it: in the middle of an import it may come out as something else."""
    return isinstance(error, KeyboardInterrupt) or (
        stopping.requested() and not isinstance(error, USER_ERRORS)
    )


def _continuation(folder: Path, hydra_config: Any) -> str:
    """The command that goes on with the run in a folder."""
    sources = hydra_config.runtime.config_sources
    own = [f"--config-dir={source.path}" for source in sources if source.schema == "file"]
    return places.shell_line([*own, places.word("run.resume", folder)])


def _traceback_for_the_log(error: BaseException) -> None:
    """Write a defect's traceback to the run's own log, not to the terminal."""
    details = (type(error), error, error.__traceback__)
    entry = log.makeRecord(log.name, logging.ERROR, __file__, 0, "a defect:", (), details)
    for handler in _files_only():
        handler.handle(entry)


def _files_only() -> list[logging.Handler]:
    handlers = logging.getLogger().handlers
    return [handler for handler in handlers if isinstance(handler, logging.FileHandler)]


if __name__ == "__main__":
    main()
