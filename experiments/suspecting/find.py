"""Train what the scores need, and score every training example."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bilevel.errors import UserError
from experiments.answers import CLASSES, NUMBER, TAGS
from experiments.results import weights_file
from experiments.suspecting.confident import confident
from experiments.suspecting.models import (
    Said,
    folds,
    joined,
    look,
    part,
    slopes,
    trainable,
    trained_lora,
)
from experiments.suspecting.pooled import Known, fitted
from experiments.suspecting.scores import MEANINGS, Scores, combined
from experiments.tasks.reading.iob import to_iob2
from experiments.training.fine_tuning_job import FineTuningJob
from problems.common.records import TrainData, longest

__all__ = ["Found", "find"]

log = logging.getLogger(__name__)

# Parts of the trusted examples, each told of by a model of the rest, which should not be much less.
FOLDS, FEW_FOLDS, FEW = 3, 5, 100


@dataclass(frozen=True)
class Found:
    """What is known of the training examples.

    Attributes:
        scores: of each.
        proposed: another label of each, in the form of the example's own; None where none is to be
            had.
        sure: (n,), how much likelier each example's ``proposed`` label is than the next one, by
            ``pooled`` (of tags the mean over words), between 0 and 1; None without classes.
    """

    scores: Scores
    proposed: list[Any]
    sure: np.ndarray | None = None


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
    count, alone = len(rows), _alone(job, trusted)
    parts = _parts(job, len(trusted))
    split = folds(count, number, job.seed, job.data.labels)
    _check_drawn(job.data, split)
    held: list[tuple[Sequence[int], Said]] = []
    later: list[tuple[Sequence[int], Said]] = []
    known: list[tuple[Sequence[int], Said, Said]] = []
    along, seen = np.zeros(count), np.zeros(count)
    for place, fold in enumerate(split):
        log.info("fold %d of %d: LoRA without %d examples", place + 1, number, len(fold))
        others = _others(count, fold)
        model = trained_lora(job, part(job.data, others), epochs)
        mine = [rows[i] for i in fold]
        held.append((fold, look(model, job, mine)))
        along[fold] = slopes(model, job, mine, trusted)
        seen[others] += look(model, job, [rows[i] for i in others]).losses / (number - 1)
        asked = [(indices, [trusted[i] for i in indices]) for indices in parts[place::number]]
        before = [look(model, job, unseen) for _, unseen in asked]
        start = trainable(model)
        del model  # one in memory at a time: bases may be large
        log.info("fold %d of %d: then on the trusted examples", place + 1, number)
        later.append((fold, look(trained_lora(job, alone, trusted_epochs, start), job, mine)))
        for (indices, unseen), said in zip(asked, before, strict=True):
            rest = part(alone, _others(len(trusted), indices))
            told = look(trained_lora(job, rest, trusted_epochs, start), job, unseen)
            known.append((indices, said, told))
    log.info("LoRA on the %d trusted examples alone", len(trusted))
    by_trusted = look(trained_lora(job, alone, trusted_epochs), job, rows)
    both, then = joined(held, count), joined(later, count)
    columns = {
        **{"hypergradient": -along, "then_trusted": then.losses},
        **{"trusted": by_trusted.losses, "small_loss": seen},
    }
    learned = weights_file.read(rows, run)
    if learned is not None:
        columns["weight"] = 1 - np.array(learned)
    if both.probabilities is None:
        return _without_classes(job, columns, both, by_trusted)
    return _with_classes(job, columns, both, then, _known(known, len(trusted)))


def _check_drawn(data: TrainData, split: Sequence[Sequence[int]]) -> None:
    """Each fold leaves something to draw.

    Raises:
        UserError: all examples whose source has a weight are in one.
    """
    drawn = {i for i, weight in enumerate(data.draw_weights or ()) if weight > 0}
    if drawn and any(drawn <= set(fold) for fold in split):
        raise UserError(
            f"folds={len(split)}: only {len(drawn)} training examples are of sources that "
            "task.source_weights gives a weight, and one fold has them all: give others a weight, "
            "or leave them out by task.keep_sources"
        )


def _parts(job: FineTuningJob, count: int) -> list[list[int]]:
    """Parts of the trusted examples, each for models of the rest; none where nothing pools."""
    if job.task.answers.kind not in (CLASSES, TAGS):
        return []
    return folds(count, min(FEW_FOLDS if count < FEW else FOLDS, count), job.seed, None)


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
        weights=None,
        draw_weights=None,
    )


def _with_classes(
    job: FineTuningJob, columns: dict[str, np.ndarray], held: Said, then: Said, known: Known
) -> Found:
    """Of classes and tags: confident learning and the pool, too.

    Args:
        job: as of :func:`find`.
        columns: found already.
        held: of the training examples, by models that were trained on others of them.
        then: of the same, by the same models after the trusted examples.
        known: what both kinds of model say of trusted examples that they have not seen.
    """
    first, given = _classed(held)
    second, _ = _classed(then)
    rule = confident(first, given)
    pool = fitted(first, second, given, known)
    right = pool.right(first, second, given)
    wrong = 1 - right[np.arange(len(given)), given]
    log.info(
        "pooled: models of the training data count %.2f, after the trusted examples %.2f; "
        "%.0f %% of the labels are wrong by it",
        *(*pool.weights, 100 * wrong.mean()),
    )
    columns = {
        **columns,
        "confident": _most(rule.margins, held),
        "pooled": _most(wrong, held),
    }
    columns["combination"] = combined([columns["confident"], columns["trusted"]])
    estimated = int((columns["pooled"] > 0.5).sum())
    # Not of sentences: the words of one are not wrong independently of each other.
    expected = float(wrong.sum()) if job.task.answers.kind == CLASSES else None
    scores = Scores(_ordered(columns), estimated, known.doubt(pool), expected)
    return Found(scores, _classes(job, held, right.argmax(1)), _mean(_ahead(right), held))


def _known(parts: Sequence[tuple[Sequence[int], Said, Said]], count: int) -> Known:
    """Each trusted item once, by models that have seen none of its part."""
    first, right = _classed(joined([(indices, before) for indices, before, _ in parts], count))
    second, _ = _classed(joined([(indices, after) for indices, _, after in parts], count))
    return Known(first, second, right)


def _classed(said: Said) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and classes of items that have some."""
    assert said.probabilities is not None
    assert said.given is not None
    return said.probabilities, said.given


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
    assert said.owner is not None
    found = np.full(len(said.losses), -np.inf)
    np.maximum.at(found, said.owner, items)
    return found


def _ahead(shares: np.ndarray) -> np.ndarray:
    """The largest of each item's probabilities less the next one (0 of a single class), (m,)."""
    largest = np.sort(np.pad(shares, ((0, 0), (1, 0))), axis=1)[:, -2:]
    return np.asarray(largest[:, 1] - largest[:, 0])


def _mean(items: np.ndarray, said: Said) -> np.ndarray:
    """Of each example, over its items; nothing is sure of one without any."""
    assert said.owner is not None
    count = len(said.losses)
    totals = np.bincount(said.owner, items, count)
    return np.asarray(totals / np.maximum(np.bincount(said.owner, minlength=count), 1))


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
    # Words beyond the model's positions keep their tags. Word by word an entity may begin with I-.
    return [
        to_iob2((*tags, *example.tags[len(tags) :]), "iob1", str)
        for tags, example in zip(said, train, strict=True)
    ]
