"""Watch a stage: evaluate its model, log its gates over time, check its hypergradient."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, replace
from typing import Any

import torch

from bilevel import BilevelEngine, BilevelProblem, Callback, Hypergradient
from bilevel import precision as precisions
from bilevel.callbacks import MetricsWriter
from bilevel.checkpoint.best import BestWeights
from bilevel.data import some
from bilevel.errors import UserError
from bilevel.hypergradient import check
from bilevel.protocols import EngineView
from bilevel.views import taken
from experiments.training.context import RunContext
from experiments.training.scoring import forward, score
from experiments.training.watched import Watched, watched_scores
from problems.common.method import ComponentValues, Watch

__all__ = ["Evaluation", "HypergradientCheck", "ValueLog"]

log = logging.getLogger(__name__)

# Records of values in a stage: enough for a smooth line, whatever the number of steps.
RECORDS = 100


class Evaluation(Callback):
    """Losses and scores of training and validation data, in evaluation mode; and what they decide.

    While training, a fixed random choice of examples is used; at the end of the stage all are. The
    test set is looked at only if that was asked for.

    Args:
        context: tells task, data and how many examples to use.
        model: what is evaluated.
        lower: the problem whose loader tells the training examples.
        watched: the validation data.
        best: remembers the best weights; None ends with the last ones.
        settled: global steps until the model has the form that is saved, and can be the best.
    """

    def __init__(
        self,
        context: RunContext,
        model: torch.nn.Module,
        lower: BilevelProblem,
        watched: Watched,
        best: BestWeights | None = None,
        settled: int = 0,
    ) -> None:
        self.context = context
        self.model = model
        self.lower = lower
        self.watched = watched
        self.best = best
        self.settled = settled
        self.limit = context.options.evaluate_examples
        self.final: dict[str, float] | None = None

    def __call__(self, engine: BilevelEngine) -> dict[str, float]:
        """Evaluate during training; at the last step with all examples, but to compare it."""
        if self.best is not None:
            stats = self._evaluate(engine, self.limit)
            self._compare(self.best, engine.global_step, stats)
            return stats
        if engine.global_step < engine.train_iters:
            return self._evaluate(engine, self.limit)
        self.final = self._evaluate(engine, None)
        return self.final

    def finish(self, engine: BilevelEngine, writer: MetricsWriter) -> dict[str, float]:
        """Put the best weights back, and evaluate what the stage ends with on all examples."""
        if self.best is not None:
            if not engine.valid_step or engine.global_step % engine.valid_step:
                writer.on_validation(engine, self(engine))
            self.best.restore()
            kept = self.kept(engine)["step"]
            self.final = self._evaluate(engine, None, f"kept are the weights of step {kept}")
            writer.write("kept", kept, self.final)
        elif self.final is None:
            self.final = self._evaluate(engine, None)
            writer.on_validation(engine, self.final)
        return self.final

    def kept(self, engine: BilevelEngine) -> dict[str, Any]:
        """Which weights the stage ends with, and of which global step they are."""
        if self.best is None or self.best.step is None:
            return {"weights": "last", "step": engine.global_step}
        return {"weights": "best", "step": self.best.step}

    def state_dict(self) -> dict[str, Any]:
        """The last evaluation, once it is made, and the best weights."""
        best = None if self.best is None else self.best.state_dict()
        return {"final": self.final, "best": best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.final = state["final"]
        best = state.get("best")  # older versions kept the last weights
        if self.best is not None and best is not None:
            self.best.load_state_dict(best)

    def _compare(self, best: BestWeights, step: int, stats: dict[str, float]) -> None:
        by = f"validation_{self.context.options.choose_by}"
        if by not in stats:
            raise UserError(
                f"engine.choose_by={self.context.options.choose_by} is not known of this method's "
                "validation data: choose by the loss"
            )
        if step >= self.settled:
            best.offer(step, stats[by])

    def _evaluate(
        self, engine: BilevelEngine, limit: int | None, title: str | None = None
    ) -> dict[str, float]:
        """Losses and scores of ``limit`` examples, told in the log under a title."""
        task, collate, options = self.context.task, self.context.collate, self.context.options

        def autocast() -> Any:  # anew each time: it remembers casts of weights
            return precisions.autocast(self.lower.precision, torch.device(engine.device).type)

        stats: dict[str, float] = {}
        loader = self.lower.train_data_loader[0]
        train = [int(loader.indices[i]) for i in some(len(loader.indices), self.limit)]
        if train:
            rows = taken(loader.dataset, train)
            _, stats["train_loss"] = forward(self.model, task, rows, collate, autocast())
        rows = taken(self.watched.rows, some(len(self.watched.rows), limit))
        if rows:
            stats |= watched_scores(self.model, self.context, rows, autocast)
        tests = self.context.tests if options.evaluate_test else {}
        if tests:
            chosen = {name: some(len(rows), limit) for name, rows in tests.items()}
            part = replace(
                task,
                tests={name: taken(task.tests[name], rows) for name, rows in chosen.items()},
            )
            tests = {name: taken(tests[name], rows) for name, rows in chosen.items()}
            scores = score(self.model, part, tests, collate, autocast())
            stats["test_loss"] = scores.loss
            stats |= {
                f"test_{k}": value for k, value in scores.metrics.items() if value is not None
            }
        found = ", ".join(f"{k} {v:.4f}" for k, v in stats.items())
        log.info("%s: %s", title or f"step {engine.global_step}", found)
        return stats


class ValueLog(Callback):
    """Writes what a method wants seen to metrics.jsonl now and then.

    Lines of kind ``gates``, ``{"gates": {layer: [k numbers]}}``, and ``watch``, ``{NAME: number}``.

    Args:
        gates: values of components, or None.
        watch: other numbers, or None.
        writer: of metrics.jsonl, an earlier callback.
        steps: of the stage.
    """

    def __init__(
        self,
        gates: ComponentValues | None,
        watch: Watch | None,
        writer: MetricsWriter,
        steps: int,
    ) -> None:
        self.gates = gates
        self.watch = watch
        self.writer = writer
        self.every = math.ceil(steps / RECORDS)

    def on_start(self, engine: EngineView) -> None:
        """Write where the values start."""
        if engine.global_step == 0:
            self._write(engine)

    def on_step_end(self, engine: EngineView) -> None:
        """Write if it is time."""
        step = engine.global_step
        if step % self.every == 0 or step == engine.train_iters:
            self._write(engine)

    @torch.no_grad()
    def _write(self, engine: EngineView) -> None:
        if self.gates is not None:
            rows = self.gates.values().detach().float().cpu().tolist()
            values = {
                name: [round(value, 6) if math.isfinite(value) else None for value in row]
                for name, row in zip(self.gates.names, rows, strict=True)
            }
            self.writer.write("gates", engine.global_step, {"gates": values})
        if self.watch is not None:
            numbers = {name: float(value) for name, value in self.watch().items()}
            self.writer.write("watch", engine.global_step, numbers)


class HypergradientCheck(Callback):
    """Holds the estimator in use against the exact implicit term, every so many global steps.

    Args:
        lower: the problem that is differentiated.
        estimator: in use.
        writer: of metrics.jsonl; records are of kind ``hypergradient``.
        every: global steps.
    """

    def __init__(
        self,
        lower: BilevelProblem,
        estimator: Hypergradient,
        writer: MetricsWriter,
        every: int,
    ) -> None:
        self.lower = lower
        self.estimator = estimator
        self.writer = writer
        self.every = every

    def on_step_end(self, engine: EngineView) -> None:
        """Check if it is time."""
        if engine.global_step % self.every or not self.lower.differentiated:
            return
        found, found_at = check(engine, [self.estimator])[0], engine.global_step
        self.writer.write("hypergradient", found_at, asdict(found))
        if not found.exact_norm:
            log.info("step %d: the implicit term is 0, no estimator can miss it", found_at)
            return
        log.info(
            "step %d: %s, whole gradient: cosine %.4f to that through all steps, error %.3g",
            *(found_at, found.name, found.total_cosine, found.total_error),
        )
