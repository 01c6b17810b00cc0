"""One stage of a run: its problems in an engine, watched, evaluated, saved and resumed."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilevel import BilevelEngine, BilevelEngineConfig, BilevelProblem, Callback
from bilevel.callbacks import CheckpointEvery, MetricsWriter, NonFiniteGuard, ProgressBar
from bilevel.errors import UserError
from bilevel.hypergradient import estimator_of
from experiments.models.memory import without_cache
from experiments.training.callbacks import Evaluation, HypergradientCheck, ValueLog
from problems.common.method import ComponentValues, Watch

if TYPE_CHECKING:
    from experiments.training.job import FineTuningJob

__all__ = ["Stage"]

log = logging.getLogger(__name__)


class Stage:
    """Runs a stage's problems; see :class:`problems.common.method.StageRunner`."""

    def __init__(self, job: FineTuningJob, name: str) -> None:
        self.job = job
        self.name = name
        self._summary: dict[str, Any] = {}

    def summary(self) -> dict[str, Any]:
        """Seconds, steps, T1, T2, ...; plain data, complete once the stage has run."""
        return dict(self._summary)

    def run(
        self,
        problems: Sequence[BilevelProblem],
        dependencies: dict[str, dict[Any, list[Any]]],
        steps: int,
        model: Any,
        *,
        validation: Sequence[dict[str, Any]] = (),
        gates: ComponentValues | None = None,
        watch: Watch | None = None,
        roll_back: bool = False,
    ) -> dict[str, float]:
        """Train for ``steps`` global steps and return the evaluation at the end.

        Args:
            problems, dependencies: the levels and their graph.
            steps: global steps.
            model: what is evaluated.
            validation: the upper level's examples; none for a single level.
            gates: selection variables, singular values or gates to record over time.
            watch: other numbers to record over time.
            roll_back: take the last lower step again after an upper step.
        """
        options = self.job.plan.engine
        levels = _levels(dependencies)
        lower = levels[0] if levels else problems[0]
        evaluation = Evaluation(self.job, model, lower, validation)
        writer = MetricsWriter(
            Path(self.job.folder) / "metrics.jsonl", options["metrics_every"], self.name
        )
        engine = BilevelEngine(
            problems,
            config=self._config(steps, lower, bool(validation), roll_back),
            dependencies=dependencies,
            callbacks=[
                *self._before(writer, evaluation),
                *([ValueLog(gates, watch, writer, steps)] if gates or watch else []),
                *self._after(writer, lower if levels else None),
            ],
            validation=evaluation,
        )
        self._resume(engine)
        parts = _parts(lower, validation)
        log.info("stage %s: %d steps on %s%s", self.name, steps, engine.device, parts)
        started = time.process_time()
        with without_cache(model):
            engine.run()
        if engine.stop_reason is not None:
            log.info("stage %s: stopped early, %s", self.name, engine.stop_reason)
        stats = evaluation.finish(engine, writer)
        self._summary = {
            "seconds": round(writer.seconds(), 3),
            "processor_seconds": round(time.process_time() - started, 3),
            "steps": engine.global_step,
            "T1": lower.config.unroll_steps if levels else None,
            "T2": getattr(levels[1].config, "steps", 1) if levels else None,
            "precision": lower.precision,
            "hypergradient": _described(lower) if levels else None,
            "examples": _examples(problems, lower),
        }
        engine.cleanup()
        return stats

    def _config(
        self, steps: int, lower: BilevelProblem, validates: bool, roll_back: bool
    ) -> BilevelEngineConfig:
        options = self.job.plan.engine
        patience = options["early_stopping"]
        return BilevelEngineConfig(
            train_iters=steps,
            valid_step=self._evaluation_interval(lower),
            roll_back=roll_back,
            strategy=options["strategy"],
            # Without validation data there is nothing to stop by: test data must not decide.
            early_stopping=bool(patience) and validates,
            early_stopping_metric="validation_loss",
            early_stopping_mode="min",
            early_stopping_tolerance=patience,
        )

    def _evaluation_interval(self, lower: BilevelProblem) -> int:
        """Global steps between two evaluations, 0 for none."""
        epochs = self.job.plan.engine["evaluate_every"]
        if not epochs:
            return 0
        batches = len(_loader(lower))
        config = lower.config
        return max(1, round(epochs * batches / config.gradient_accumulation / config.unroll_steps))

    def _before(self, writer: MetricsWriter, evaluation: Evaluation) -> list[Callback]:
        guard = NonFiniteGuard(checkpointer=self.job.checkpointer)
        return [guard, writer, ProgressBar(self.name), evaluation]

    def _after(self, writer: MetricsWriter, lower: BilevelProblem | None) -> list[Callback]:
        """The hypergradient's check, and checkpoints last: they include what others wrote."""
        options = self.job.plan.engine
        callbacks: list[Callback] = []
        every = options["check_hypergradient_every"]
        estimator = estimator_of(lower.config) if lower is not None else None
        if every and lower is not None and estimator is not None:
            callbacks.append(HypergradientCheck(lower, estimator, writer, every))
        if options["checkpoint_every"]:
            callbacks.append(
                CheckpointEvery(
                    self.job.checkpointer,
                    options["checkpoint_every"],
                    self.name,
                    lambda engine: {"stage": self.name, "engine": engine.state_dict()},
                )
            )
        return callbacks

    def _resume(self, engine: BilevelEngine) -> None:
        """Load the newest checkpoint, if it is of this stage and a resume is asked for."""
        if not self.job.plan.resume:
            return
        found = self.job.checkpointer.latest()
        if found is None:
            return
        path, state = found
        if state.get("stage") != self.name:
            return  # of a stage before: this one has not come to its first checkpoint
        try:
            engine.load_state_dict(state["engine"])
        except KeyError as error:
            raise UserError(f"{path} is of another version of this program") from error
        log.info("stage %s: goes on at step %d (%s)", self.name, engine.global_step, path.name)


def _loader(problem: BilevelProblem) -> Any:
    """The batches of a problem: the engine makes a list of what it is given."""
    loader: Any = problem.train_data_loader
    return loader[0] if isinstance(loader, (list, tuple)) else loader


def _parts(lower: BilevelProblem, validation: Sequence[dict[str, Any]]) -> str:
    """Sizes of the two parts of the data, for the log; nothing where it is not divided."""
    if not validation:
        return ""
    batches = _loader(lower)
    trained = getattr(batches, "indices", batches.dataset)  # a loader of one's own has none
    return f"; D_train {len(trained)}, D_val {len(validation)}"


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
        if problem.train_data_loader:  # a Lagrange multiplier has none
            batch = problem.train_data_loader[0].batch_size
            seen["lower" if problem is lower else "upper"] += problem.count * batch
    return seen


def _levels(dependencies: dict[str, dict[Any, list[Any]]]) -> tuple[Any, Any] | None:
    """The first lower problem with an upper one, and that upper problem."""
    for upper, lowers in dependencies["u2l"].items():
        return lowers[0], upper
    return None
