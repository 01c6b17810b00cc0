"""Train what the scores need, and score every training example."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.answers import CLASSES, NUMBER, TAGS
from experiments.results import weights_file
from experiments.suspecting.confident import confident
from experiments.suspecting.models import Said, folds, joined, look, part, slopes, trained_lora
from experiments.suspecting.scores import MEANINGS, Scores, combined
from experiments.training.fine_tuning_job import FineTuningJob
from problems.common.records import longest

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
    along, seen = np.zeros(count), np.zeros(count)
    for place, fold in enumerate(folds(count, number, job.seed, job.data.labels), start=1):
        log.info("fold %d of %d: LoRA without %d examples", place, number, len(fold))
        out = set(fold)
        others = [i for i in range(count) if i not in out]
        model = trained_lora(job, part(job.data, others), epochs)
        mine = [rows[i] for i in fold]
        held.append((fold, look(model, job, mine)))
        along[fold] = slopes(model, job, mine, trusted)
        seen[others] += look(model, job, [rows[i] for i in others]).losses / (number - 1)
    log.info("LoRA on the %d trusted examples alone", len(trusted))
    lengths = [longest(row) for row in trusted]
    alone = replace(
        job.data,
        examples=trusted,
        labels=None,
        lengths=lengths,
        validation=None,
        sources=None,
        draw_weights=None,
    )
    by_trusted = look(trained_lora(job, alone, trusted_epochs), job, rows)
    return _scored(job, run, joined(held, count), by_trusted, along, seen)


def _scored(
    job: FineTuningJob,
    run: Path,
    held: Said,
    by_trusted: Said,
    along: np.ndarray,
    seen: np.ndarray,
) -> Found:
    columns: dict[str, np.ndarray] = {
        "hypergradient": -along,
        "trusted": by_trusted.losses,
        "small_loss": seen,
    }
    learned = weights_file.read(job.data.examples, run)
    if learned is not None:
        columns["weight"] = 1 - np.array(learned)
    estimated = None
    held_out = held.losses  # what stands for confident learning without classes
    if held.probabilities is not None:
        assert held.given is not None
        assert held.owner is not None
        rule = confident(held.probabilities, held.given)
        margins = np.full(len(held.losses), -np.inf)
        np.maximum.at(margins, held.owner, rule.margins)  # a sentence is as doubtful as a word
        columns["confident"] = held_out = margins
        doubted = (rule.counted >= 0) & (rule.counted != held.given)
        estimated = len(set(held.owner[doubted].tolist()))
    columns["combination"] = combined([held_out, by_trusted.losses])
    ordered = {name: columns[name] for name in MEANINGS if name in columns}
    return Found(Scores(ordered, estimated), _proposed(job, held, by_trusted))


def _proposed(job: FineTuningJob, held: Said, by_trusted: Said) -> list[Any]:
    """What the mean of both models says."""
    kind, train = job.task.answers.kind, job.task.train
    if kind == NUMBER:
        assert held.values is not None
        assert by_trusted.values is not None
        return list(((held.values + by_trusted.values) / 2).tolist())
    if kind not in (CLASSES, TAGS):
        return [None] * len(train)
    assert held.probabilities is not None
    assert by_trusted.probabilities is not None
    best = (held.probabilities + by_trusted.probabilities).argmax(1)
    if kind == CLASSES:
        return [int(label) for label in best]
    names = job.task.answers.names or ()
    said: list[list[str]] = [[] for _ in train]
    assert held.owner is not None
    for owner, number in zip(held.owner, best, strict=True):
        said[int(owner)].append(names[int(number)])
    # Words beyond the model's positions keep their tags.
    return [(*tags, *example.tags[len(tags) :]) for tags, example in zip(said, train, strict=True)]
