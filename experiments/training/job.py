"""Run a plan from data to result: a method's stages one after the other, then the scores."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import transformers

from bilevel import distributed, launcher
from bilevel.callbacks import NonFiniteError
from bilevel.callbacks.callback import Callback
from bilevel.cutting import Cut
from bilevel.errors import StorageError, UserError
from bilevel.lowrank import lora_scales
from experiments.artefacts import ranks_file
from experiments.artefacts.artefact import Artefact
from experiments.cli.quiet import quiet
from experiments.cli.resume import exclusive
from experiments.cli.writing import clean
from experiments.comparing.score_interval import score_interval
from experiments.config.plan import Plan
from experiments.models.virtual_tokens import beside_adapter
from experiments.plots.records import run_name
from experiments.results import record, saved_model, settings_file, source_table, weights_file
from experiments.results.fresh_folder import refuse_others
from experiments.results.metrics_file import read_metrics
from experiments.tasks.in_memory import GivenTask
from experiments.tasks.task import TaskData
from experiments.training import (
    chosen_horizon,
    decided_ranks,
    reused_settings,
    trackers,
    trained_rows,
    warm_start,
)
from experiments.training.beside_probe import beside_probe
from experiments.training.choosing import is_better
from experiments.training.context import RunContext
from experiments.training.final_scores import assemble, final_scores, test_sizes
from experiments.training.fine_tuning_job import FineTuningJob, load_task
from experiments.training.finished_stages import Journal, check_config
from experiments.training.freed_memory import give_back
from experiments.training.processes import JOURNAL, part_in, seen_by_all, shared
from experiments.training.same_data import data_digests, file_digests, model_digests
from experiments.training.stage import StageRun, summary_without_training
from experiments.verdicts import verdict
from problems.common.method import Outcome, Stage, Training
from problems.common.records import LOWEST
from problems.common.two_levels import TwoLevelMethod

__all__ = ["execute", "run_stage"]

log = logging.getLogger(__name__)


def execute(
    plan: Plan,
    folder: Path,
    task: TaskData | None = None,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Run a plan in ``folder``; returns what its result.json says.

    Args:
        plan: what to do.
        folder: where.
        task: the plan's data, if it has been read already.
        callbacks: the user's own, which follow every stage.

    Raises:
        UserError: the folder holds another run, or one that is not to be resumed; or anything
            that stops the run.
    """
    world = distributed.setup(plan.engine.strategy)
    plan = shared(plan, folder, world)
    with part_in(folder, world) as place, exclusive(place):
        return distributed.from_first(_execute(plan, place, task, callbacks, world), world)


def _execute(
    plan: Plan,
    folder: Path,
    task: TaskData | None,
    callbacks: Sequence[Callback],
    world: distributed.World,
) -> dict[str, Any]:
    """This process's part of a run, in a folder that is its own."""
    finished = record.read(folder) if plan.resume else None
    if (finished := distributed.from_first(finished, world)) is not None:
        # Of files it has been said to take the run as it is; what is given in memory is at hand.
        given = data_digests(load_task(plan)) if isinstance(plan.task, GivenTask) else None
        check_config(folder / JOURNAL, plan.config, given)
        log.info("%s is finished already", folder)
        return finished
    clean(folder)
    # What is damaged is told before the work.
    before = read_metrics(folder, growing=True) if plan.resume else []
    _refuse_leftovers(plan, folder)
    log.info("run in %s", folder)
    quiet()
    task = task or load_task(plan)
    examples = data_digests(task)
    data = {**examples, **file_digests(plan, task)}
    if world.rank == 0:  # which keeps the journal; many gigabytes need not be read by each
        data |= model_digests(plan)
    journal = Journal(folder / JOURNAL, plan.config, plan.resume, plan.processes, data)
    journal.share(world)
    plan = chosen_horizon.settled(plan, task, journal)
    job = FineTuningJob.load(plan, task)
    give_back()
    _tell_data(job)
    _tell_processes(plan, world)
    with trackers.opened(plan.report_to, folder, plan.config, before) as told:
        context = job.context(folder, [told.line] if plan.report_to else (), callbacks)
        values = _train_and_score(job, context, journal, world)
        values["data_digests"] = examples
        told.end(values)
    if world.rank == 0:
        if plan.figures:
            from experiments import figures  # matplotlib takes 25 MiB and a second

            figures.draw(folder, values)
        record.write(folder, values)
    return values


def _train_and_score(
    job: FineTuningJob, context: RunContext, journal: Journal, world: distributed.World
) -> dict[str, Any]:
    """Run all stages, save what they made and score it; returns what result.json will say.

    All processes share the work; what only one has to write, the first one does.
    """
    outcome, stages = _run_stages(job, context, journal, world)
    saved, artefact = None, None
    scales = None  # of a cut; scoring takes the adapters off
    if outcome.cut is not None and any((outcome.ranks or {}).values()):
        scales = lora_scales(outcome.model)
    if world.rank == 0:
        saved = _save(outcome, context)
        artefact = _completed(job, outcome, saved, context.folder)
    saved = _as_seen(saved, context.folder, world)
    asked = job.task  # which scoring may replace
    scores = final_scores(job, outcome, saved, context.folder)
    for words in scores["warnings"]:
        log.warning("%s", words)
    values = assemble(job, stages, outcome, saved, scores)
    values["beside_probe"] = beside_probe(job, asked, values, scores["predictions"])
    if artefact is not None:
        _conclude(job, outcome, values, scores, journal, context.folder, artefact, scales)
    return values


def _as_seen(
    saved: saved_model.Saved | None, scratch: Path, world: distributed.World
) -> saved_model.Saved:
    """What the first process has saved, as this one can read it."""
    first = distributed.from_first(saved, world)
    assert first is not None
    folder = seen_by_all(None if saved is None else saved.folder, scratch, world)
    return replace(first, folder=folder)


def _completed(
    job: FineTuningJob, outcome: Outcome, saved: saved_model.Saved, folder: Path
) -> Artefact:
    """Beside the saved weights, what is read with them; what is written of it later on."""
    plan, task = job.plan, job.task
    base = plan.model.reference()
    if saved.folder.name != saved_model.MODEL and _started(plan):
        base = warm_start.save_base(job.stock_model(), job.tokenizer, folder)
    tokenizer = beside_adapter(job.tokenizer, outcome.model)
    artefact = Artefact.of(
        *(task, task.answers, tokenizer, outcome.model.config, base, plan.model.dtype),
        job.head_replaced,
    )
    artefact.complete(_places(folder))
    saved_model.seal(folder)
    return artefact


def _started(plan: Plan) -> bool:
    """Whether the weights that the run begins with are another run's, and no pretrained model's.

    A training on the data of a run that was itself started so has that run's ``base`` as its
    pretrained model; its configuration, which tells how the folder is to be read, still says it.
    """
    said = plan.config.get("model")
    told = said.get("warm_start") if isinstance(said, dict) else None
    return (plan.model.warm_start or told) is not None


def _places(folder: Path) -> list[Path]:
    return [path for path in saved_model.places(folder) if path.is_dir()]


def _conclude(
    job: FineTuningJob,
    outcome: Outcome,
    values: dict[str, Any],
    scores: dict[str, Any],
    journal: Journal,
    folder: Path,
    artefact: Artefact,
    scales: dict[str, float] | None,
) -> None:
    """Judge what was found, and write all of it but result.json, whose ``values`` it completes."""
    lines = read_metrics(folder)
    judged = verdict.of_run(values, lines, scores["predictions"])
    values["verdict"] = [one.as_json() for one in judged]
    if chosen_horizon.STAGE in journal.finished:
        found = journal.found(chosen_horizon.STAGE)
        values["engine"]["horizon"] = {key: found[key] for key in ("wanted", "cosines")}
    artefact.card(_places(folder), values, interval=score_interval(folder, values))
    title = run_name(values)
    if values["source_weights"] is not None:
        source_table.write(title, values["source_weights"], folder)
    if outcome.example_weights is not None:
        weights_file.write(outcome.example_weights.tolist(), job.data.examples, folder)
    if outcome.cut is not None:
        ranks = {
            "title": title,
            **outcome.cut.as_json(),
            "examples_from": outcome.cut_by,
            "scales": scales,
            "decided": scores["decided"],
        }
        ranks_file.write(ranks, folder / ranks_file.FILE)
    if outcome.lora is not None:
        rate = reused_settings.rate(outcome.lora["optimizer"]["lr"], job.plan.settings.lr)
        settings = job.plan.settings
        examples = settings.batch_size * settings.gradient_accumulation
        each = min(examples, len(job.data.examples))  # a pass ends its step
        passes = list(values["engine"]["steps"].values())[-1] * each / len(job.data.examples)
        settings_file.write(outcome.lora, values["model"], rate, passes, folder)
    share = vars(job.plan.method).get("hold_out")
    trained_rows.write(folder, trained_rows.trained(job.data, values, share), job.data.seen)


def run_stage(
    stage: Stage,
    job: FineTuningJob,
    context: RunContext,
    found: Any,
    source: Path | None = None,
) -> tuple[Any, dict[str, Any] | None]:
    """Prepare and run one stage of a method.

    Args:
        stage: which.
        job: handed to it.
        context: what the stages of the run share.
        found: by the stage before; None for the first.
        source: the file that it was read from; None where it was found just now.

    Returns:
        What the stage found, and what it says of itself (seconds, steps, T1, ...), which is None
        for an outcome without training.
    """
    # A stage starts from the seed, whatever was done before it: so a resumed run, which does
    # not repeat the stages before, starts it in the same way.
    transformers.set_seed(job.seed)
    started = time.perf_counter(), time.process_time()
    try:
        made = stage.prepare(job, found)
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        if source is None:
            raise
        raise UserError(
            f"{source} is damaged, or of another version: stage {stage.name} cannot go on from "
            f"what it says ({type(error).__name__}: {error}); start the run afresh"
        ) from error
    if isinstance(made, Outcome):
        return made, None
    if not isinstance(made, Training):
        _say_decided(job, context, made)
        return made, summary_without_training(job.settings.precision, *started)
    run = StageRun(context, stage.name)
    try:
        stats = run.run(made)
    except NonFiniteError as error:
        # Of several processes perhaps one has seen it, and the others wait for that one.
        if made.diverged is None or launcher.processes() > 1:
            raise
        log.warning("stage %s: %s", stage.name, error)
        return made.diverged(), summary_without_training(job.settings.precision, *started)
    by = context.options.choose_by
    score = stats.get(f"validation_{by}", stats.get("validation_loss"))
    if score is not None and is_better(job.task, by) == "max":
        score = -score
    own = {} if score is None else {LOWEST: score}
    found = made.finish({**stats, **own, "kept_step": run.summary()["kept"]["step"]})
    if isinstance(found, dict):
        _say_decided(job, context, found)
    return found, run.summary()


def _say_decided(job: FineTuningJob, context: RunContext, found: dict[str, Any]) -> None:
    """Below the ranks that a stage has found and logged, how far they are decided."""
    cut = Cut.of_state(found["cut"]) if found.get("cut") else None
    if cut is None and "ranks" not in found:
        return
    records = read_metrics(context.folder)
    if not records:  # of another process than the first, which alone keeps them
        return
    said = decided_ranks.of_method(job.plan.method, records, found.get("ranks"), cut)
    if said is not None:
        log.info("%s", said.words)


def _run_stages(
    job: FineTuningJob, context: RunContext, journal: Journal, world: distributed.World
) -> tuple[Outcome, dict[str, dict[str, Any]]]:
    """The outcome of a method's stages, and what each says of itself, those before a resume too.

    The last stage is always entered, so that its model is there.
    """
    *before, last = job.plan.method.stages()
    found: Any = None
    source: Path | None = None
    for stage in before:
        if stage.name in journal.finished:
            log.info("stage %s: finished before the interruption", stage.name)
            source = journal.path
        else:
            found, summary = run_stage(stage, job, context, found, source)
            source = None
            journal.finish(stage.name, found, summary)
            journal.agree(stage.name, world)
        found = journal.found(stage.name)
    outcome, summary = run_stage(last, job, context, found, source)
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


def _tell_processes(plan: Plan, world: distributed.World) -> None:
    """Say who shares the run, and what is a batch then."""
    if world.world_size == 1 and plan.processes == 1:
        return
    size = plan.settings.batch_size
    log.info(
        "%d processes share batches of %d examples, %s in each",
        *(world.world_size, size, f"{size / world.world_size:g}"),
    )
    if plan.processes != world.world_size:
        log.info("the batches are those of the %d processes that began the run", plan.processes)


def _tell_data(job: FineTuningJob) -> None:
    """Say how many examples there are, and what the validation split is good for."""
    task, method = job.task, job.plan.method
    sizes = {"train": len(task.train), "validation": len(task.validation or ())}
    sizes = {name: size for name, size in {**sizes, **test_sizes(task)}.items() if size}
    log.info("data: %s", ", ".join(f"{name} {size}" for name, size in sizes.items()))
    if task.validation is None:
        if task.test_source == "validation":
            log.info(
                "there is no test split beside the validation split, which is the test set: "
                "nothing is chosen by it"
            )
    elif getattr(method, "hold_out", 0):
        log.info(
            "the validation split is not used, as method.hold_out=%g keeps a part of the training "
            "data in its place (method.hold_out=0 takes the split)",
            method.hold_out,  # type: ignore[attr-defined]
        )
    elif isinstance(method, TwoLevelMethod) and method.split is None:
        log.info("the validation split is D_val (method.split=null)")
    else:
        share = "; method.split=null makes it D_val" * isinstance(method, TwoLevelMethod)
        log.info("the validation split is what is chosen by: no level trains on it%s", share)


def _refuse_leftovers(plan: Plan, folder: Path) -> None:
    """Checkpoints and files of another run would be taken for this one's, and deleted."""
    if not plan.resume:
        refuse_others(folder)
