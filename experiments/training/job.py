"""Run a plan from data to result: a method's stages one after the other, then the scores."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import transformers

from bilevel.checkpoint.disk import told_when_full
from bilevel.errors import StorageError, UserError
from experiments import figures
from experiments.cli.quiet import quiet
from experiments.cli.resume import exclusive
from experiments.config.plan import Plan
from experiments.results import record, saved_model
from experiments.training import warm_start
from experiments.training.context import RunContext
from experiments.training.final_scores import assemble, final_scores, test_sizes
from experiments.training.fine_tuning_job import FineTuningJob, load_task
from experiments.training.finished_stages import Journal
from experiments.training.stage import StageRun
from problems.common.method import Outcome, Stage

__all__ = ["execute", "run_stage"]

log = logging.getLogger(__name__)


def execute(plan: Plan, folder: Path) -> dict[str, Any]:
    """Run a plan in ``folder``; returns what its result.json says.

    Raises:
        UserError: the folder holds another run, or one that is not to be resumed; or anything
            that stops the run.
    """
    with exclusive(folder):
        finished = record.read(folder) if plan.resume else None
        if finished is not None:
            log.info("%s is finished already", folder)
            return finished
        _refuse_leftovers(plan, folder)
        log.info("run in %s", folder)
        quiet()
        task = load_task(plan)
        journal = Journal(folder / "checkpoints" / "stages.json", plan.config, plan.resume)
        job = FineTuningJob.load(plan, task)
        sizes = {"train": len(task.train), **test_sizes(task)}
        log.info("data: %s", ", ".join(f"{name} {size}" for name, size in sizes.items()))
        context = job.context(folder)
        outcome, stages = _run_stages(job, context, journal)
        saved = _save(outcome, context)
        saved_model.name_labels(task.answers, folder.glob("adapter*"))
        if saved.folder.name == saved_model.MODEL:
            with told_when_full(saved.folder):
                job.tokenizer.save_pretrained(str(saved.folder))
        elif plan.model.warm_start is not None:
            warm_start.save_base(job.stock_model(), job.tokenizer, folder)
        values = assemble(job, stages, outcome, saved, final_scores(job, outcome, saved, folder))
        if plan.figures:
            figures.draw(folder, values)
        record.write(folder, values)
        return values


def run_stage(
    stage: Stage, job: FineTuningJob, context: RunContext, found: Any
) -> tuple[Any, dict[str, Any] | None]:
    """Prepare and run one stage of a method.

    Args:
        stage: which.
        job: handed to it.
        context: what the stages of the run share.
        found: by the stage before; None for the first.

    Returns:
        What the stage found, and what it says of itself (seconds, steps, T1, ...), which is None
        where there was nothing to train.
    """
    # A stage starts from the seed, whatever was done before it: so a resumed run, which does
    # not repeat the stages before, starts it in the same way.
    transformers.set_seed(job.seed)
    made = stage.prepare(job, found)
    if isinstance(made, Outcome):
        return made, None
    run = StageRun(context, stage.name)
    stats = run.run(made)
    return made.finish(stats), run.summary()


def _run_stages(
    job: FineTuningJob, context: RunContext, journal: Journal
) -> tuple[Outcome, dict[str, dict[str, Any]]]:
    """The outcome of a method's stages, and what each says of itself, those before a resume too.

    The last stage is always entered, so that its model is there.
    """
    *before, last = job.plan.method.stages()
    found: Any = None
    for stage in before:
        if stage.name in journal.finished:
            log.info("stage %s: finished before the interruption", stage.name)
            found = journal.finished[stage.name]["outcome"]
        else:
            found, summary = run_stage(stage, job, context, found)
            journal.finish(stage.name, found, summary)
    outcome, summary = run_stage(last, job, context, found)
    said = {name: entry["summary"] for name, entry in journal.finished.items()}
    said[last.name] = summary
    return outcome, {name: summary for name, summary in said.items() if summary is not None}


def _save(outcome: Outcome, context: RunContext) -> saved_model.Saved:
    """Write the fine-tuned model; never lose it to a full disk.

    Raises:
        StorageError: it could not be written; a resumed run will write it without training again,
            or the message says where it is.
    """
    try:
        return saved_model.save(outcome, context.folder)
    except StorageError as error:
        if context.checkpointer.paths():
            raise
        elsewhere = Path(tempfile.mkdtemp(prefix="trained-"))
        saved_model.save(outcome, elsewhere)
        raise StorageError(f"{error}; what was trained is in {elsewhere}") from error


def _refuse_leftovers(plan: Plan, folder: Path) -> None:
    if not plan.resume and (folder / "metrics.jsonl").exists():
        raise UserError(f"{folder} holds a run already: give another folder, or run.resume=DIR")
