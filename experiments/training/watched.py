"""Find the validation data of a stage, whether a level of it trains on them, and score them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from bilevel.views import OnDisk, key, keys, taken
from experiments.tasks.examples import TextExample
from experiments.tasks.kinds.text import TextData
from experiments.training.choosing import LOSS
from experiments.training.scoring import Scores, forward, score

if TYPE_CHECKING:
    from torch import nn

    from bilevel import BilevelProblem
    from experiments.training.context import RunContext
    from problems.common.method import Training

__all__ = ["Watched", "digest", "watched_scores"]

Row = dict[str, Any]


@dataclass(frozen=True)
class Watched:
    """D_val of a stage: what its training is watched and chosen by, never the test set.

    Attributes:
        rows: tokenised examples; none where the stage has no validation data.
        source: the task's own validation split, or a part of the training data.
        trained_on: a level of the stage trains on them, or might.
        split_trained_on: the same of the task's own validation split, whatever is watched.
    """

    rows: Sequence[Row]
    source: Literal["validation", "training"]
    trained_on: bool
    split_trained_on: bool

    @classmethod
    def of(cls, training: Training, own: Sequence[Row] | None) -> Watched:
        """What a stage is watched by.

        A part of the training data that no level of the stage trains on was kept for this, by
        ``method.hold_out`` say; next comes the task's validation split; last what an upper level
        trains on.

        Args:
            training: the stage.
            own: the task's validation split, tokenised; None without one.
        """
        kept = training.validation
        trained = _trained_on(training.problems, kept)
        of_split = _trained_on(training.problems, own or ())
        if own and (trained or not kept or key(kept[0]) == key(own[0])):
            return cls(own, "validation", of_split, of_split)
        return cls(kept, "training", trained, of_split)

    @property
    def held_out(self) -> bool:
        """Whether there are examples that no level of the stage trains on."""
        return bool(self.rows) and not self.trained_on


def _trained_on(problems: Sequence[BilevelProblem], rows: Sequence[Row]) -> bool:
    """Whether one of the rows is among those that some problem draws its batches from."""
    wanted = set(keys(rows))
    for problem in problems:
        loader: Any = problem.train_data_loader
        for batches in loader if isinstance(loader, list | tuple) else [loader]:
            if batches is None:
                continue
            dataset = getattr(batches, "dataset", None)
            # Of the method's own: it cannot be told.
            if not isinstance(dataset, list | tuple | OnDisk):
                return bool(wanted)
            drawn = getattr(batches, "indices", range(len(dataset)))
            if not wanted.isdisjoint(keys(taken(dataset, drawn))):
                return True
    return False


def digest(rows: Sequence[Row]) -> str:
    """A checksum of tokenised examples and their order, by which to know them again."""
    found = hashlib.sha256()
    for row in rows:
        found.update(json.dumps([row["input_ids"], row["labels"]], default=float).encode())
    return found.hexdigest()


def watched_scores(
    model: nn.Module,
    context: RunContext,
    rows: Sequence[Row],
    autocast: Callable[[], AbstractContextManager[None]],
) -> dict[str, float]:
    """``validation_loss``, and ``validation_METRIC`` of each metric that is to be had cheaply.

    Text is written and scored only if that is what is chosen by; nan is a score that cannot be
    computed of these predictions. Rows that a method made itself have a loss alone.
    """
    examples = [context.examples.get(row) for row in keys(rows)]
    if any(example is None for example in examples):
        return {
            "validation_loss": forward(model, context.task, rows, context.collate, autocast())[1]
        }
    scores = _score(model, context, rows, examples, autocast())
    found = {"validation_loss": scores.loss}
    metrics = scores.metrics
    if isinstance(context.task, TextData) and context.options.choose_by != LOSS:
        metrics = _score(
            model, context, *_inputs(rows, examples), autocast(), tokenizer=context.tokenizer
        ).metrics
    return found | {
        f"validation_{name}": math.nan if value is None else value
        for name, value in metrics.items()
    }


def _score(
    model: nn.Module,
    context: RunContext,
    rows: Sequence[Row],
    examples: Sequence[Any],
    precision: AbstractContextManager[None],
    tokenizer: Any = None,
) -> Scores:
    part = replace(context.task, tests={"validation": list(examples)})
    return score(model, part, {"validation": list(rows)}, context.collate, precision, tokenizer)


def _inputs(rows: Sequence[Row], examples: Sequence[Any]) -> tuple[list[Row], list[TextExample]]:
    """The distinct sources, each with all of its targets as references."""
    first: dict[str, Row] = {}
    references: dict[str, dict[str, None]] = {}
    for row, example in zip(rows, examples, strict=True):
        first.setdefault(example.source, row)
        known = references.setdefault(example.source, {})
        known |= dict.fromkeys(example.references or (example.target,))
    found = [TextExample(source, next(iter(r)), tuple(r)) for source, r in references.items()]
    return list(first.values()), found
