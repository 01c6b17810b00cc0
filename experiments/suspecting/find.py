"""Train what the scores need, and score every training example."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.answers import CLASSES, NUMBER
from experiments.results import weights_file
from experiments.suspecting.confident import confident
from experiments.suspecting.models import Said, folds, joined, look, part, slopes, trained_lora
from experiments.suspecting.pooled import fitted
from experiments.suspecting.scores import MEANINGS, Scores, combined
from experiments.training.fine_tuning_job import FineTuningJob
from problems.common.records import TrainData, longest

__all__ = ["Found", "find"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """What is known of the training examples.

    Attributes:
        scores: of each.
        proposed: another label of each, in the form of the example's own; None where none is to be
            had.
    """

    scores: Scores
    proposed: list[Any]


def find(job: FineTuningJob, run: Path, number: int, epochs: float, trusted_epochs: float) -> Found:
    """Score the training examples by every column that the task has.

    Args:
        job: of a plan with method LoRA; its task has trusted examples.
        run: the run's folder, for learned weights.
        number: of folds.
        epochs: passes of each fold's model over the other folds.
        trusted_epochs: passes over the trusted examples.
    """
    rows, trusted = job.data.examples, list(job.data.validation or ())
    count = len(rows)
    held: list[tuple[Sequence[int], Said]] = []
    on_trusted: list[Said] = []
    along, seen = np.zeros(count), np.zeros(count)
    for place, fold in enumerate(folds(count, number, job.seed, job.data.labels), start=1):
        log.info("fold %d of %d: LoRA without %d examples", place, number, len(fold))
        others = _others(count, fold)
        model = trained_lora(job, part(job.data, others), epochs)
        mine = [rows[i] for i in fold]
        held.append((fold, look(model, job, mine)))
        on_trusted.append(look(model, job, trusted))
        along[fold] = slopes(model, job, mine, trusted)
        seen[others] += look(model, job, [rows[i] for i in others]).losses / (number - 1)
    log.info("LoRA on the %d trusted examples alone", len(trusted))
    alone = _alone(job, trusted)
    by_trusted = look(trained_lora(job, alone, trusted_epochs), job, rows)
    columns = {"hypergradient": -along, "trusted": by_trusted.losses, "small_loss": seen}
    learned = weights_file.read(rows, run)
    if learned is not None:
        columns["weight"] = 1 - np.array(learned)
    both = joined(held, count)
    if both.probabilities is None:
        return _without_classes(job, columns, both, by_trusted)
    apart = _held_out(job, alone, number, trusted_epochs)
    return _with_classes(job, columns, both, by_trusted, on_trusted, apart)


def _others(count: int, fold: Sequence[int]) -> list[int]:
    out = set(fold)
    return [i for i in range(count) if i not in out]


def _alone(job: FineTuningJob, trusted: list[dict[str, Any]]) -> TrainData:
    return replace(
        job.data,
        examples=trusted,
        labels=None,
        lengths=[longest(row) for row in trusted],
        validation=None,
        sources=None,
        draw_weights=None,
    )


def _held_out(job: FineTuningJob, trusted: TrainData, number: int, epochs: float) -> Said:
    """What models of the trusted examples say of those that they were trained without."""
    rows = trusted.examples
    found = []
    for fold in folds(len(rows), min(number, len(rows)), job.seed, None):
        model = trained_lora(job, part(trusted, _others(len(rows), fold)), epochs)
        found.append((fold, look(model, job, [rows[i] for i in fold])))
    return joined(found, len(rows))


def _with_classes(
    job: FineTuningJob,
    columns: dict[str, np.ndarray],
    held: Said,
    by_trusted: Said,
    on_trusted: Sequence[Said],
    apart: Said,
) -> Found:
    """Of classes and tags: confident learning and the pool, too.

    Args:
        job: as of :func:`find`.
        columns: found already.
        held: of the training examples, by models that were trained on others of them.
        by_trusted: of the same, by a model of the trusted examples.
        on_trusted: of the trusted examples, by each of the former models.
        apart: of the same, by models of other trusted examples.
    """
    assert held.given is not None
    assert held.owner is not None
    assert held.probabilities is not None
    assert by_trusted.probabilities is not None
    assert apart.probabilities is not None
    assert apart.given is not None
    rule = confident(held.probabilities, held.given)
    doubted = (rule.counted >= 0) & (rule.counted != held.given)
    pool = fitted(_mean(on_trusted), apart.probabilities, apart.given)
    log.info(
        "pooled: %.2f of the log-probabilities of models of the training data, %.2f of those of "
        "the trusted examples",
        *(pool.first, pool.second),
    )
    logs = pool.logs(held.probabilities, by_trusted.probabilities)
    against = -logs[np.arange(len(held.given)), held.given]
    columns = {
        **columns,
        "confident": _most(rule.margins, held),
        "pooled": _most(against, held),
    }
    columns["combination"] = combined([columns["confident"], by_trusted.losses])
    estimated = len(set(held.owner[doubted].tolist()))
    return Found(Scores(_ordered(columns), estimated), _classes(job, held, logs.argmax(1)))


def _without_classes(
    job: FineTuningJob, columns: dict[str, np.ndarray], held: Said, by_trusted: Said
) -> Found:
    """Of numbers and texts: the held-out loss stands for confident learning, and nothing pools."""
    columns = {**columns, "combination": combined([held.losses, by_trusted.losses])}
    proposed: list[Any] = [None] * len(job.task.train)
    if job.task.answers.kind == NUMBER:
        assert held.values is not None
        assert by_trusted.values is not None
        proposed = list(((held.values + by_trusted.values) / 2).tolist())
    return Found(Scores(_ordered(columns), None), proposed)


def _ordered(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: columns[name] for name in MEANINGS if name in columns}


def _most(items: np.ndarray, said: Said) -> np.ndarray:
    """Of each example: a sentence is as doubtful as its most doubtful word."""
    found = np.full(len(said.losses), -np.inf)
    np.maximum.at(found, said.owner, items)
    return found


def _mean(several: Sequence[Said]) -> np.ndarray:
    """Geometric mean of models' probabilities, as a pool adds logarithms; up to a factor."""
    logs = [np.log(np.maximum(said.probabilities, 1e-9)) for said in several]
    return np.asarray(np.exp(np.mean(logs, axis=0)))


def _classes(job: FineTuningJob, held: Said, best: np.ndarray) -> list[Any]:
    """The most probable class of each example, or tags of its words."""
    train = job.task.train
    if job.task.answers.kind == CLASSES:
        return [int(label) for label in best]
    names = job.task.answers.names or ()
    said: list[list[str]] = [[] for _ in train]
    assert held.owner is not None
    for owner, number in zip(held.owner, best, strict=True):
        said[int(owner)].append(names[int(number)])
    # Words beyond the model's positions keep their tags.
    return [(*tags, *example.tags[len(tags) :]) for tags, example in zip(said, train, strict=True)]
