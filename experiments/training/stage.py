"""Run one stage: its problems in an engine, watched, evaluated, saved and resumed."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

from bilevel import (
    BilevelEngine,
    BilevelEngineConfig,
    BilevelProblem,
    Callback,
    ResumableLoader,
)
from bilevel.callbacks import CheckpointEvery, MetricsWriter, NonFiniteGuard, ProgressBar
from bilevel.callbacks.losses import level_names
from bilevel.checkpoint.best import BestWeights
from bilevel.distributed import from_first
from bilevel.errors import UserError
from bilevel.hypergradient import estimator_of
from experiments.cli import stopping
from experiments.models.memory import without_cache
from experiments.training.callbacks import Evaluation, HypergradientCheck, ValueLog
from experiments.training.choosing import is_better
from experiments.training.context import RunContext
from experiments.training.doubts import about_training, about_upper_steps
from experiments.training.singular_log import SingularLog, is_plain_lora
from experiments.training.watched import Watched, digest
from problems.common.method import Training

__all__ = ["StageRun", "summary_without_training"]

log = logging.getLogger(__name__)


class StageRun:
    """The training of one stage.

    Args:
        context: what the stages of the run share.
        name: the stage's.
    """

    def __init__(self, context: RunContext, name: str) -> None:
        self.context = context
        self.name = name
        self._summary: dict[str, Any] = {}
        self._doubts: list[str] = []

    def summary(self) -> dict[str, Any]:
        """Seconds, steps, T1, T2, ...; plain data, complete once the stage has run."""
        return dict(self._summary)

    def run(self, training: Training) -> dict[str, float]:
        """Train, and return the evaluation at the end.

        Raises:
            UserError: the training cannot go on, or its checkpoint is of another version.
        """
        options, model = self.context.options, training.model
        levels = _levels(training.dependencies)
        lower = levels[0] if levels else training.problems[0]
        watched = Watched.of(training, self.context.validation)
        best = self._best(training, watched)
        evaluation = Evaluation(self.context, model, lower, watched, best, training.settled)
        metrics = self.context.folder / "metrics.jsonl"
        writer = MetricsWriter(metrics, options.metrics_every, self.name, self.context.listeners)
        drawn = training.gates or training.watch
        values = ValueLog(training.gates, training.watch, writer, training.steps)
        engine = BilevelEngine(
            training.problems,
            config=self._config(training, lower, watched),
            dependencies=training.dependencies,
            callbacks=[
                *self._before(writer, evaluation),
                *([values] if drawn else []),
                *([SingularLog(model, writer, training.steps)] if is_plain_lora(model) else []),
                *self.context.callbacks,
                *self._after(writer, lower if levels else None),
            ],
            validation=evaluation,
        )
        self._resume(engine)
        log.info(
            "stage %s: %d steps on %s; %s",
            self.name,
            training.steps,
            engine.device,
            _parts(lower, training.validation, watched),
        )
        self._say_what_decides(training, watched, best)
        upper = levels[1] if levels and levels[1].train_data_loader else None
        if upper is not None:
            self._doubt(about_upper_steps(self.name, _upper_steps(training, lower, upper)))
        if levels and lower.hypergradient is not None and lower.hypergradient.changes_steps:
            self._doubt(
                f"stage {self.name}: under hypergradient={lower.hypergradient.name} the weights "
                "that are trained here descend the loss on D_val too: hold the result against LoRA "
                "on D_train and D_val together"
            )
        started = time.process_time()
        # Who saves checkpoints is asked after each step whether that is all.
        careful = stopping.waiting() if options.checkpoint_every else nullcontext()
        with without_cache(model), careful:
            engine.run()
        if engine.stop_reason is not None:
            log.info("stage %s: stopped early, %s", self.name, engine.stop_reason)
        # Before the weights that are kept come back, and with them the steps that they had seen.
        upper_steps = None if upper is None else upper.count // upper.gas
        if upper_steps is not None and not self._doubts:  # it may step in a part of them only
            self._doubt(about_upper_steps(self.name, upper_steps))
        examples = _examples(training.problems, lower)
        stats = evaluation.finish(engine, writer)
        if engine.is_rank_zero():  # which alone has written the metrics
            loss = f"{level_names(engine)[lower.name]}_loss"
            self._doubt(about_training(self.name, metrics, loss))
        self._summary = {
            "seconds": round(writer.seconds(), 3),
            "processor_seconds": round(time.process_time() - started, 3),
            "steps": engine.global_step,
            "T1": lower.config.unroll_steps if levels else None,
            "T2": levels[1].config.steps if levels else None,
            "precision": lower.precision,
            "upper_steps": upper_steps,
            "hypergradient": _described(lower) if levels else None,
            "examples": examples,
            "kept": evaluation.kept(engine),
            "validation": _validation(stats, watched),
            "split_trained_on": watched.split_trained_on,
            "warnings": self._doubts,
        }
        engine.cleanup()
        return stats

    def _config(
        self, training: Training, lower: BilevelProblem, watched: Watched
    ) -> BilevelEngineConfig:
        options = self.context.options
        patience = options.early_stopping if training.patience is None else training.patience
        return BilevelEngineConfig(
            train_iters=training.steps,
            valid_step=self._evaluation_interval(lower),
            roll_back=training.roll_back,
            strategy=options.strategy,
            shard=options.shard,
            offload=options.offload,
            # Without validation data there is nothing to stop by: test data must not decide.
            early_stopping=bool(patience and watched.rows),
            early_stopping_metric=f"validation_{options.choose_by}",
            early_stopping_mode=is_better(self.context.task, options.choose_by),
            early_stopping_tolerance=patience,
            early_stopping_start=training.settled,
        )

    def _best(self, training: Training, watched: Watched) -> BestWeights | None:
        """What remembers the best weights; None where the last ones are kept."""
        options = self.context.options
        if options.keep == "last" or not (watched.held_out and options.evaluate_every):
            return None
        if training.settled >= training.steps:  # no other weights have the form that is saved
            return None
        # Scored on the validation split, as the papers do on GLUE: then as published in this too,
        # but where the training ends by these data, and its last weights are past their best.
        published = self.context.task.test_source == "validation"
        ends = options.early_stopping if training.patience is None else training.patience
        if options.keep is None and published and watched.source == "training" and not ends:
            return None
        return BestWeights(training.problems, is_better(self.context.task, options.choose_by))

    def _say_what_decides(
        self, training: Training, watched: Watched, best: BestWeights | None
    ) -> None:
        """Which weights the stage will end with, and what was asked for that it cannot do."""
        options = self.context.options
        if best is not None:
            log.info(
                "stage %s: ends with the weights of its best validation %s (engine.keep=last for "
                "the last ones)",
                self.name,
                options.choose_by,
            )
        elif options.keep == "best":
            why = "its upper level trains on D_val" if watched.rows else "it has no validation data"
            if training.settled >= training.steps:
                why = "only these have the form that is saved"
            log.warning("stage %s: ends with its last weights, as %s", self.name, why)
        if options.early_stopping and not watched.rows:
            log.warning("stage %s: runs to its end, as it has no validation data", self.name)
        elif options.early_stopping and training.settled >= training.steps:
            log.warning(
                "stage %s: runs to its end, which alone has the form that is saved", self.name
            )

    def _doubt(self, words: str | None) -> None:
        """Say what may be wrong with the result, and remember it for result.json."""
        if words is not None and words not in self._doubts:
            log.warning("%s", words)
            self._doubts.append(words)

    def _evaluation_interval(self, lower: BilevelProblem) -> int:
        """Global steps between two evaluations, 0 for none."""
        epochs = self.context.options.evaluate_every
        if not epochs:
            return 0
        batches = len(_loader(lower))
        config = lower.config
        steps = math.ceil(batches / config.gradient_accumulation)
        return max(1, round(epochs * steps / config.unroll_steps))

    def _before(self, writer: MetricsWriter, evaluation: Evaluation) -> list[Callback]:
        guard = NonFiniteGuard(checkpointer=self.context.checkpointer)
        return [guard, writer, ProgressBar(self.name), evaluation]

    def _after(self, writer: MetricsWriter, lower: BilevelProblem | None) -> list[Callback]:
        """The hypergradient's check, and checkpoints last: they include what others wrote."""
        options = self.context.options
        callbacks: list[Callback] = []
        every = options.check_hypergradient_every
        estimator = estimator_of(lower.config) if lower is not None else None
        if every and lower is not None and estimator is not None:
            callbacks.append(HypergradientCheck(lower, estimator, writer, every))
        if options.checkpoint_every:
            callbacks.append(
                CheckpointEvery(
                    self.context.checkpointer,
                    options.checkpoint_every,
                    self.name,
                    lambda engine: {"stage": self.name, "engine": engine.state_dict()},
                    stopping.due,
                )
            )
        return callbacks

    def _resume(self, engine: BilevelEngine) -> None:
        """Load the newest checkpoint, if it is of this stage and a resume is asked for."""
        if not self.context.resume:
            return
        # Only the first process has them: the others get what it has read.
        first = engine.world.rank == 0
        found = from_first(self.context.checkpointer.latest() if first else None, engine.world)
        if found is None:
            return
        path, state = found
        if not isinstance(state, dict) or state.get("stage") != self.name:
            return  # of a stage before: this one has not come to its first checkpoint
        try:
            engine.load_state_dict(state["engine"])
        except (LookupError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is of another version of this program") from error
        log.info("stage %s: goes on at step %d (%s)", self.name, engine.global_step, path.name)


def summary_without_training(
    precision: str, clock: float, processor_clock: float
) -> dict[str, Any]:
    """What a stage says of itself that only computed something.

    Args:
        precision: of the trainings around it.
        clock, processor_clock: when it began, ``time.perf_counter()`` and ``time.process_time()``.
    """
    return {
        "seconds": round(time.perf_counter() - clock, 3),
        "processor_seconds": round(time.process_time() - processor_clock, 3),
        "steps": 0,
        "T1": None,
        "T2": None,
        "precision": precision,
        "hypergradient": None,
        "examples": {"lower": 0, "upper": 0},
        "warnings": [],
    }


def _loader(problem: BilevelProblem) -> Any:
    """The batches of a problem: the engine makes a list of what it is given."""
    loader: Any = problem.train_data_loader
    return loader[0] if isinstance(loader, (list, tuple)) else loader


def _parts(lower: BilevelProblem, validation: Sequence[dict[str, Any]], watched: Watched) -> str:
    """Sizes of the parts of the data, for the log, and which of them decide."""
    batches = _loader(lower)
    trained = getattr(batches, "indices", batches.dataset)  # a loader of one's own has none
    words = f"D_train {len(trained)}"
    source = "the task's validation split" if watched.source == "validation" else "of the training"
    if watched.trained_on:  # the upper level's
        return f"{words}, D_val {len(watched.rows)} ({source}), which the upper level trains on"
    if not watched.rows:
        return f"{words}, no validation data"
    if validation and watched.source == "validation":
        words += f", D_val {len(validation)} (of the training), which the upper level trains on"
    return f"{words}, held out to choose by {len(watched.rows)} ({source})"


def _upper_steps(training: Training, lower: BilevelProblem, upper: BilevelProblem) -> int:
    """Optimiser steps that the upper level is to take: T2 each time, but in the warm-up."""
    config = lower.config
    warm = config.warmup_steps // config.unroll_steps
    return max(0, training.steps - warm) * upper.config.steps


def _validation(stats: dict[str, float], watched: Watched) -> dict[str, Any] | None:
    """Loss and scores on the validation data at the stage's end; None without any."""
    if not watched.rows:
        return None
    scores = {
        key.removeprefix("validation_"): None if math.isnan(value) else value
        for key, value in stats.items()
        if key.startswith("validation_")
    }
    return {
        "loss": scores.pop("loss"),
        "metrics": scores,
        "examples": len(watched.rows),
        "digest": digest(watched.rows),
        "source": watched.source,
        "trained_on": watched.trained_on,
    }


def _described(lower: BilevelProblem) -> dict[str, Any]:
    """The estimator that the levels above ``lower`` use, with its options."""
    estimator = estimator_of(lower.config)
    if estimator is None:  # one of Betty's own
        return {"name": lower.config.type}
    return {"name": estimator.name, **asdict(estimator)}


def _examples(problems: Sequence[BilevelProblem], lower: BilevelProblem) -> dict[str, int]:
    """Training examples that the levels were shown, repetitions counted."""
    seen = {"lower": 0, "upper": 0}
    for problem in problems:
        if not problem.train_data_loader:  # a Lagrange multiplier has none
            continue
        loader = problem.train_data_loader[0]
        # The last step of an epoch may have fewer batches than the level counts for a step.
        resumable = isinstance(loader, ResumableLoader)
        shown = loader.seen if resumable else problem.count * loader.batch_size
        seen["lower" if problem is lower else "upper"] += shown
    return seen


def _levels(dependencies: dict[str, dict[Any, list[Any]]]) -> tuple[Any, Any] | None:
    """The first lower problem with an upper one, and that upper problem."""
    for upper, lowers in dependencies["u2l"].items():
        return lowers[0], upper
    return None
