"""Load the data and the model of a plan, as a method is handed them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bilevel import Callback, Hypergradient, distributed
from bilevel.checkpoint.folder import Checkpointer
from bilevel.cutting import Losses
from bilevel.errors import UserError
from bilevel.lowrank import split_fused
from bilevel.sharding import shard_base
from bilevel.views import keys
from experiments.answers import CHOICES, SPANS, TEXT
from experiments.config.plan import Plan
from experiments.models.heads import heads
from experiments.models.memory import recompute, settled_precision
from experiments.models.target_modules import outputs_of_maps, target_modules
from experiments.models.virtual_tokens import leaving
from experiments.stored_data.parts import sources_of
from experiments.stored_data.rows import lengths_of
from experiments.stored_data.spool import spooling
from experiments.stored_data.streamed import StreamedExamples
from experiments.tasks.kinds.label_sets import LabelSetData
from experiments.tasks.kinds.room import check_room
from experiments.tasks.kinds.text import TextData
from experiments.tasks.label_trust import LabelTrust
from experiments.tasks.loading import load_data
from experiments.tasks.sources import Sourced, sizes
from experiments.tasks.task import TaskData
from experiments.training import choosing, reused_settings, trained_rows, warm_start
from experiments.training.class_weights import check_class_weights, class_weights, weight_classes
from experiments.training.context import RunContext
from experiments.training.heard import heard
from experiments.training.label_smoothing import check_smoothing, smooth_labels
from experiments.training.made_of import MadeOf
from experiments.training.scoring import example_losses, outputs_of, score
from experiments.training.shared_examples import say_shared
from experiments.training.stored_tokens import streamed_rows, tokenised
from experiments.training.streaming import SHARES, check_streamed, check_streaming
from problems.common.layer_names import positions
from problems.common.method import AnswerKind, TrainData, TrainSettings
from problems.common.records import Layout
from problems.common.two_levels import TwoLevelMethod, check_plain_losses
from problems.linear_probe import LinearProbe
from problems.prompt import check_lengths

__all__ = ["FineTuningJob", "load_task"]

log = logging.getLogger(__name__)


def load_task(plan: Plan) -> TaskData:
    """The data of a plan's task, before any model is loaded.

    Raises:
        UserError: the data cannot be had, or does not suit the method.
    """
    check_streaming(plan)
    if isinstance(plan.task, LabelTrust) and plan.task.trusted is not None:
        plan.method.check_drawn_validation()
    with heard() as warnings, spooling(plan.engine.cache_from):
        task = load_data(plan.task)
        _tell_unweighted(plan, bool(task.validation))
    check_streamed(plan, task)
    if isinstance(plan.task, Sourced):
        task = replace(task, draw_weights=plan.task.draw_weights(task.train))
    plan.method.check_sources(sizes(task.train), drawn=task.draw_weights is not None)
    check_smoothing(plan.settings.label_smoothing, task.answers)
    check_class_weights(plan.settings.class_weights, task.answers)
    if task.weights is not None and not plan.method.takes_weights:
        raise UserError(
            f"task {task.name} gives its training examples weights, and method {plan.chosen} would "
            "pass over them: take method=lora"
        )
    if task.weights is not None:
        check_plain_losses(plan.settings, f"task {task.name}")
    plan.method.check_answers(task.answers.kind)
    if plan.probe and task.answers.kind in (TEXT, SPANS, CHOICES):
        raise UserError(
            "run.probe=true fits a linear map on embeddings, which writes no text, finds no answer "
            f"and compares no choices: leave it at false for a task of {task.answers.kind}"
        )
    if isinstance(task, LabelSetData) and task.threshold is None and not task.validation:
        raise UserError(
            "task.threshold=validation chooses on the validation data, beside the test set, and "
            "there are none: give a file validation, or a number, task.threshold=0.5"
        )
    choosing.check(plan.engine, plan.method, task)
    try:
        plan.method.check_size(len(task.train), plan.settings.batch_size)
        plan.method.check_steps(len(task.train), plan.settings)
        plan.method.check_validation(len(task.validation or ()), plan.settings.batch_size)
    except UserError as error:
        if plan.processes == 1:
            raise
        words = f"{error} (in {plan.processes} processes, which take their batches together)"
        raise UserError(words) from error
    return replace(task, warnings=tuple(warnings))


def _tell_unweighted(plan: Plan, own: bool) -> None:
    """Say that a held-out share decides by all sources alike, whatever their weights."""
    if not isinstance(plan.task, Sourced) or plan.task.source_weights is None:
        return
    if plan.method.held_out(False) != "apart" or (own and isinstance(plan.method, LinearProbe)):
        return
    given = {name: vars(plan.method).get(name) for name in SHARES}
    for name, share in given.items():
        if share:
            log.warning(
                "method.%s=%g: what it keeps apart counts every example alike, whatever "
                "task.source_weights says of its source",
                *(name, share),
            )


@dataclass(eq=False, repr=False)
class FineTuningJob:
    """What the application hands to a method, a :class:`problems.common.method.Job`, and more.

    :meth:`load` makes one.

    Attributes:
        plan: what to do.
        task: its data, and how to score.
        tests: the task's test sets by name, tokenised.
        tokenizer: of the model.
        class_weights: of the classes in the training losses, (C,); None for equal ones.
        head_replaced: the checkpoint has a head for other answers.
        warnings: what was said of the model, and of the data for it, while they were loaded.
    """

    plan: Plan
    task: TaskData
    tests: dict[str, Sequence[dict[str, Any]]]
    tokenizer: PreTrainedTokenizerBase
    seed: int
    data: TrainData
    settings: TrainSettings
    hypergradient: Hypergradient
    target_modules: list[str]
    head_modules: list[str]
    task_type: str | None
    class_weights: Tensor | None
    _fresh: PreTrainedModel | None
    head_replaced: bool = False
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, plan: Plan, task: TaskData) -> FineTuningJob:
        """Load the plan's model and tokenise the task's data for it.

        Args:
            plan: what to do.
            task: of :func:`load_task`.

        Raises:
            UserError: the model cannot be had, or does not suit the method or the task.
        """
        with heard() as warnings:
            return cls._load(plan, task, warnings)

    @classmethod
    def _load(cls, plan: Plan, task: TaskData, warnings: list[str]) -> FineTuningJob:
        _check_variables(plan, task)
        reused_settings.tell_others(plan)
        loaded = warm_start.load(plan.model, task.answers, plan.seed)
        precision = settled_precision(
            loaded.model.config, plan.model.dtype, plan.settings.precision
        )
        settings = replace(plan.settings, precision=precision)
        fresh = _for_training(plan, task, loaded.model)
        targets = target_modules(loaded.model, plan.places)
        plan.method.check_model(loaded.model, targets)

        def tokenise(examples: Sequence[Any]) -> Sequence[dict[str, Any]]:
            return tokenised(loaded, task, examples, plan.engine)

        virtual, limit = plan.method.virtual_tokens, positions(loaded.model)
        scored = loaded
        if not isinstance(task, TextData):  # whose answers need room too: see check_room
            scored = replace(loaded, tokenizer=leaving(loaded.tokenizer, virtual, limit))

        def to_score(examples: Sequence[Any]) -> Sequence[dict[str, Any]]:
            """As they are read when the virtual tokens stand before them; no method trains them."""
            rows = tokenised(scored, task, examples, plan.engine)
            check_lengths(lengths_of(rows) if virtual else (), virtual, limit)
            return rows

        streamed = isinstance(task.train, StreamedExamples)
        examples = streamed_rows(loaded, task) if streamed else tokenise(task.train)
        weights = None
        if settings.class_weights is not None:
            labels = [row["labels"] for row in examples]
            weights = class_weights(settings.class_weights, task.answers, labels)
        weight_classes(fresh, weights, settings.label_smoothing)
        data = TrainData(
            examples=examples,
            collate=task.collator(loaded.tokenizer),
            labels=None if streamed else task.stratify(task.train),
            lengths=() if streamed else lengths_of(examples),
            validation=None if task.validation is None else to_score(task.validation),
            weights=task.weights,
            sources=None if sizes(task.train) is None else list(map(str, sources_of(task.train))),
            draw_weights=task.draw_weights,
            seen=_seen(plan),
        )
        tests = {name: to_score(rows) for name, rows in task.tests.items()}
        if not streamed:
            say_shared(examples, data.validation or (), tests)
        if isinstance(task, TextData):
            prompts = [task.prompt(e, loaded.seq2seq) for rows in tests.values() for e in rows]
            check_room(prompts, task.decoding, virtual, limit, loaded.seq2seq)
        return cls(
            plan=plan,
            task=task,
            tests=tests,
            tokenizer=loaded.tokenizer,
            seed=plan.seed,
            data=data,
            settings=settings,
            hypergradient=plan.hypergradient,
            target_modules=targets,
            head_modules=loaded.head_modules,
            task_type=loaded.task_type,
            class_weights=weights,
            _fresh=fresh,
            head_replaced=loaded.head_replaced,
            warnings=warnings,
        )

    def build_model(self) -> PreTrainedModel:
        """A fresh pretrained model with its head, the same at every call."""
        fresh, self._fresh = self._fresh, None
        if fresh is not None:
            return fresh
        model = _for_training(self.plan, self.task, self.stock_model())
        weight_classes(model, self.class_weights, self.settings.label_smoothing)
        return model

    @property
    def device(self) -> torch.device:
        """Where models are trained."""
        return distributed.setup(self.plan.engine.strategy).device

    def place(self, model: nn.Module) -> nn.Module:
        """Put a model that nothing will train any more where it computes; returns it."""
        options = self.plan.engine
        world = distributed.setup(options.strategy)
        if options.shard is None:
            return model.to(world.device)
        shard_base(model.requires_grad_(False), world, options.offload)
        return model

    @property
    def kind(self) -> AnswerKind:
        """See :attr:`problems.common.method.Job.kind`."""
        return self.task.answers.kind  # type: ignore[return-value]

    @torch.no_grad()
    def outputs(
        self, model: nn.Module, rows: Sequence[dict[str, Any]]
    ) -> Iterator[tuple[list[int], Any, dict[str, Tensor]]]:
        """See :meth:`problems.common.method.Job.outputs`."""
        with outputs_of(model, rows, self.data.collate) as each:
            yield from each

    def scores(self, model: nn.Module, rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
        """See :meth:`problems.common.method.Job.scores`."""
        known = self._examples()
        part = replace(self.task, tests={"validation": [known[key] for key in keys(rows)]})
        found = score(model, part, {"validation": list(rows)}, self.data.collate)
        return {"loss": found.loss, **found.metrics}

    def losses(self, model: nn.Module, rows: Sequence[dict[str, Any]]) -> Losses:
        """See :meth:`problems.common.method.Job.losses`."""
        return example_losses(model, self.task, rows, self.data.collate)

    def example_losses(self, outputs: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See :meth:`problems.common.method.Job.example_losses`."""
        return self.task.example_losses(outputs, dict(batch))

    def stock_model(self) -> PreTrainedModel:
        """The same as transformers makes it, which what was saved must fit."""
        return warm_start.load(self.plan.model, self.task.answers, self.seed).model

    def context(
        self,
        folder: Path,
        listeners: Sequence[Callable[[dict[str, Any]], None]] = (),
        callbacks: Sequence[Callback] = (),
    ) -> RunContext:
        """What the stages of a run in ``folder`` share."""
        options, task = self.plan.engine, self.task
        return RunContext(
            task=task,
            tests=self.tests,
            collate=self.data.collate,
            options=options,
            folder=folder,
            validation=self.data.validation,
            examples=self._examples(),
            tokenizer=self.tokenizer,
            checkpointer=Checkpointer(folder / "checkpoints", options.keep_checkpoints),
            resume=self.plan.resume,
            listeners=listeners,
            callbacks=callbacks,
        )

    def _examples(self) -> Mapping[Hashable, Any]:
        """What a tokenised training or validation example was made of, by its key."""
        return MadeOf(
            (self.data.examples, self.task.train),
            (self.data.validation or (), self.task.validation or ()),
        )


def _check_variables(plan: Plan, task: TaskData) -> None:
    """Refuse more upper variables than the estimator takes, before any weights are read.

    Raises:
        UserError: there are more.
    """
    method = plan.method
    if plan.hypergradient.most_variables is None or not isinstance(method, TwoLevelMethod):
        return
    model = plan.model.layout(task.answers)
    if model is None:
        return
    head = heads(model, task.answers, fresh=())
    if method.splits_fused:
        split_fused(model)
    sources = sizes(task.train)
    variables = method.upper_variables(
        Layout(
            modules=outputs_of_maps(model, target_modules(model, plan.places)),
            head=bool(head),
            examples=len(task.train),
            sources=0 if sources is None else len(sources),
        )
    )
    if variables is not None:
        plan.hypergradient.check_variables(variables, "upper")


def _seen(plan: Plan) -> set[str]:
    """Marks of what the run of ``model.warm_start`` was trained on, if it tells."""
    start = plan.model.warm_start
    return set() if start is None else trained_rows.read(Path(start).expanduser()) or set()


def _for_training(plan: Plan, task: TaskData, model: PreTrainedModel) -> PreTrainedModel:
    if plan.settings.class_weights is None:  # else the weighted loss smooths them
        smooth_labels(model, plan.settings.label_smoothing, task.answers)
    if plan.model.gradient_checkpointing:
        recompute(model)
    return split_fused(model) if plan.method.splits_fused else model
