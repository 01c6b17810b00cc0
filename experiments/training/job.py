"""One run from data to result: what a method is handed, and what happens before and after it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import transformers
from transformers import PreTrainedModel

from bilevel import distributed
from bilevel.checkpoint.disk import told_when_full
from bilevel.checkpoint.folder import Checkpointer
from bilevel.errors import UserError
from bilevel.lowrank import split_fused
from experiments import figures
from experiments.cli.quiet import quiet
from experiments.cli.resume import exclusive
from experiments.cli.writing import write_atomically
from experiments.config.plan import Plan
from experiments.metrics.ranks import information, linear_costs, recovery
from experiments.metrics.weight_change import moved
from experiments.models.memory import recompute, settled_precision
from experiments.models.target_modules import check_rank, target_modules
from experiments.plots.records import final_values
from experiments.results import record as result
from experiments.results import saved_model as artifacts
from experiments.tasks.kinds.room import check_room
from experiments.tasks.kinds.text import TextData
from experiments.tasks.task import TaskData
from experiments.training import warm_start
from experiments.training.finished_stages import Journal
from experiments.training.label_smoothing import check_smoothing, smooth_labels
from experiments.training.scoring import forward, score, some
from experiments.training.stage import Stage
from problems.common.layer_names import positions
from problems.common.method import Outcome, StageRunner, TrainData

__all__ = ["FineTuningJob", "execute"]

log = logging.getLogger(__name__)

T = TypeVar("T")

# The train loss in the result is over this many training examples at most.
TRAIN_LOSS_EXAMPLES = 5000


class FineTuningJob:
    """What the application hands to a method; see :class:`problems.common.method.Job`.

    Args:
        plan: what to do.
        folder: the run's folder.

    Raises:
        UserError: the data or the model cannot be had, or do not suit the method.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        quiet()
        self.plan = plan
        self.folder = folder
        self.seed = plan.seed
        self.hypergradient = plan.hypergradient
        self.task: TaskData = plan.task.load()
        check_smoothing(plan.settings.label_smoothing, self.task.answers)
        plan.method.check_size(len(self.task.train), plan.settings.batch_size)
        self.journal = Journal(folder / "checkpoints" / "stages.json", plan.config, plan.resume)
        self.checkpointer = Checkpointer(folder / "checkpoints", plan.engine["keep_checkpoints"])
        self.stages: list[Stage] = []

        loaded = plan.model.load(self.task.answers, self.seed)
        precision = settled_precision(
            loaded.model.config, plan.model.dtype, plan.settings.precision
        )
        self.settings = replace(plan.settings, precision=precision)
        self._fresh: PreTrainedModel | None = self._for_training(loaded.model)
        self.tokenizer = loaded.tokenizer
        self.head_modules = loaded.head_modules
        self.task_type = loaded.task_type
        self._seq2seq = loaded.seq2seq
        self.target_modules = target_modules(loaded.model, plan.targets)
        rank = getattr(plan.method, "rank", None)
        if rank is not None:
            check_rank(loaded.model, self.target_modules, rank)
        self.data = self._train_data()
        self.tests = {name: self._tokenise(rows) for name, rows in self.task.tests.items()}
        if isinstance(self.task, TextData):
            prompts = [self.task.prompt(e, self._seq2seq) for t in self.tests.values() for e in t]
            virtual = getattr(plan.method, "virtual_tokens", 0)
            limit = positions(loaded.model)
            check_room(prompts, self.task.decoding, virtual, limit, self._seq2seq)

    @property
    def warm_start(self) -> dict[str, Any] | None:
        """The run that the model's weights were taken from, None for pretrained ones."""
        folder = self.plan.model.warm_start
        if folder is None:
            return None
        return warm_start.described(folder, warm_start.read_run(folder, self.plan.names["model"]))

    def build_model(self) -> PreTrainedModel:
        """A fresh pretrained model with its head, the same at every call."""
        fresh, self._fresh = self._fresh, None
        return self._for_training(self.stock_model()) if fresh is None else fresh

    def stock_model(self) -> PreTrainedModel:
        """The same as transformers makes it, which what was saved must fit."""
        return self.plan.model.load(self.task.answers, self.seed).model

    def _for_training(self, model: PreTrainedModel) -> PreTrainedModel:
        smooth_labels(model, self.settings.label_smoothing, self.task.answers)
        if self.plan.model.gradient_checkpointing:
            recompute(model)
        return split_fused(model) if self.plan.method.splits_fused else model

    def stage(self, name: str, body: Callable[[StageRunner], T], last: bool = False) -> T:
        """Run a stage, or take its outcome from before the interruption."""
        if not last and name in self.journal.finished:
            log.info("stage %s: finished before the interruption", name)
            return self.journal.finished[name]["outcome"]
        # A stage starts from the seed, whatever was done before it: so a resumed run, which does
        # not repeat the stages before, starts it in the same way.
        transformers.set_seed(self.seed)
        stage = Stage(self, name)
        self.stages.append(stage)
        outcome = body(stage)
        if not last:
            self.journal.finish(name, outcome, stage.summary())
        return outcome

    def summaries(self) -> dict[str, dict[str, Any]]:
        """What each stage says of itself (seconds, steps, T1, ...), those before a resume too."""
        before = {name: entry["summary"] for name, entry in self.journal.finished.items()}
        return {**before, **{stage.name: stage.summary() for stage in self.stages}}

    def _train_data(self) -> TrainData:
        examples = self._tokenise(self.task.train)
        validation = self.task.validation
        return TrainData(
            examples=examples,
            collate=self.task.collator(self.tokenizer),
            labels=self.task.stratify(self.task.train),
            lengths=[len(example["input_ids"]) for example in examples],
            validation=None if validation is None else self._tokenise(validation),
        )

    def _tokenise(self, examples: Sequence[Any]) -> list[dict[str, Any]]:
        return self.task.tokenise(self.tokenizer, examples, self._seq2seq)


def execute(plan: Plan, folder: Path) -> dict[str, Any]:
    """Run a plan in ``folder``; returns what its result.json says.

    Raises:
        UserError: the folder holds another run, or one that is not to be resumed; or anything
            that stops the run.
    """
    with exclusive(folder):
        finished = result.read(folder) if plan.resume else None
        if finished is not None:
            log.info("%s is finished already", folder)
            return finished
        _refuse_leftovers(plan, folder)
        log.info("run in %s", folder)
        job = FineTuningJob(plan, folder)
        sizes = {"train": len(job.task.train), **result.test_sizes(job.task)}
        log.info("data: %s", ", ".join(f"{name} {size}" for name, size in sizes.items()))
        outcome = plan.method.run(job)
        saved = artifacts.save(outcome, folder)
        if saved.folder.name == artifacts.MODEL:
            with told_when_full(saved.folder):
                job.tokenizer.save_pretrained(str(saved.folder))
        elif job.warm_start is not None:
            warm_start.save_base(job.stock_model(), job.tokenizer, folder)
        values = result.assemble(job, outcome, saved, _final_scores(job, outcome, saved))
        if plan.figures:
            figures.draw(folder, values)
        result.write(folder, values)
        return values


def _final_scores(job: FineTuningJob, outcome: Outcome, saved: artifacts.Saved) -> dict[str, Any]:
    """Scores of the model as it lies on the disk, read as its users would, in full precision.

    What is reported is what a user of the adapter gets, by construction.
    """
    device = distributed.setup(job.plan.engine["strategy"]).device
    outcome.model.cpu()
    model = artifacts.load(saved.folder, job.stock_model()).to(device)
    scores = score(model, job.task, job.tests, job.data.collate, tokenizer=job.tokenizer)
    _write_predictions(job, scores.predictions)
    rows = [job.data.examples[i] for i in some(len(job.data.examples), TRAIN_LOSS_EXAMPLES)]
    train_loss = forward(model, job.task, rows, job.data.collate)[1] if rows else None
    return {
        "metrics": scores.metrics,
        "entities": job.task.entities(scores.predictions),
        "test_loss": scores.loss,
        "train_loss": train_loss,
        "update": moved(model.cpu(), stock := job.stock_model()),
        "planted": _planted_score(job, outcome, stock),
    }


def _write_predictions(job: FineTuningJob, predictions: dict[str, list[Any]]) -> None:
    """predictions.jsonl: what was said of each test example, a line each; none without a test."""
    lines = [
        json.dumps({"test": name, **record}, ensure_ascii=False)
        for name, found in predictions.items()
        for record in job.task.records(found, job.task.tests[name])
    ]
    if not lines:
        return
    write_atomically(job.folder / "predictions.jsonl", "\n".join(lines) + "\n")


def _planted_score(
    job: FineTuningJob, outcome: Outcome, model: PreTrainedModel
) -> dict[str, Any] | None:
    """How well the right ranks were found, where the task knows them and the method has ranks."""
    true = job.task.true_ranks
    if true is None or outcome.ranks is None:
        return None
    costs = linear_costs(model, list({**true, **outcome.ranks}))
    values = final_values(figures.read_metrics(job.folder))
    return {
        **recovery(true, outcome.ranks, costs),
        "information": information({k: v.tolist() for k, v in values.items()}, true)
        if values
        else None,
    }


def _refuse_leftovers(plan: Plan, folder: Path) -> None:
    if not plan.resume and (folder / "metrics.jsonl").exists():
        raise UserError(f"{folder} holds a run already: give another folder, or run.resume=DIR")
