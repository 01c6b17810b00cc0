"""Read what runs are compared by: the examples of a test, and the scores on draws of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bilevel.errors import UserError
from experiments.answers import CHOICES, CLASSES, LABELS, NUMBER, SPANS, TAGS, TEXT
from experiments.metrics import resampled, spans
from experiments.metrics.resampled import Resampled
from experiments.metrics.text import chosen
from experiments.metrics.text.drawn import drawn_text
from experiments.metrics.text.tokenization import check_tokenization
from experiments.results import predictions_file
from experiments.results.predictions_file import FILE, LEAST

__all__ = ["Predictions", "read"]

AGREE = 1e-6  # by which a score that is computed again may differ
Row = Mapping[str, Any]  # a line of the file
# What a line says of the example, not of the model.
OF_EXAMPLE = (
    *("test", "index", "label", "words", "tags", "source", "target", "references"),
    *("id", "question", "answers"),
)


@dataclass(frozen=True)
class Predictions:
    """What a run said of its test examples, as far as runs are compared by it.

    Attributes:
        examples: a checksum over what the lines say of the examples, in their order.
        keys: the same over their keys, which stand for texts; None where there are none.
        size: the number of examples, over all test sets.
        scores: metric -> the score on draws of the examples; without those that are not taken
            apart, and those that the run does not have.
        loss: the test loss likewise; None where nothing says it of each example.
    """

    examples: str
    keys: str | None
    size: int
    scores: dict[str, Resampled]
    loss: Resampled | None

    def same_examples(self, other: Predictions) -> bool:
        """Whether both are of the same examples in the same order, as far as the files say."""
        keys = self.keys is None or other.keys is None or self.keys == other.keys
        return keys and self.examples == other.examples


def read(folder: Path, result: Mapping[str, Any]) -> Predictions:
    """What predictions.jsonl in a run's folder says.

    Args:
        folder: the run's.
        result: its result.json.

    Raises:
        UserError: the file is missing or damaged, of a kind of task that is not known here, or has
            another score than result.json.
    """
    kind = result.get("kind", "")
    if kind not in KINDS:
        raise UserError(f"{folder}: its result.json is of a kind of task ({kind!r}) without them")
    path = folder / FILE
    scores_of, losses_of = KINDS[kind]
    rows = list(predictions_file.lines(path, result))
    if len(rows) < 2:
        raise UserError(f"{path} has fewer than two lines")
    found = scores_of(rows, result)
    for name, score in found.items():
        said = result["metrics"][name]
        if not abs(score.value - said) <= AGREE * max(1.0, abs(said)):
            raise UserError(
                f"{path} has {name} {score.value:.4f}, and result.json beside it {said:.4f}: they "
                "are not of the same run"
            )
    keys = [row.get("key") for row in rows]
    return Predictions(
        _checksum([{k: row[k] for k in OF_EXAMPLE if k in row} for row in rows]),
        None if None in keys else _checksum(keys),
        len(rows),
        found,
        _loss(rows, losses_of, result),
    )


def _checksum(values: Sequence[Any]) -> str:
    found = hashlib.sha256()
    for value in values:
        found.update(json.dumps(value, sort_keys=True).encode() + b"\n")
    return found.hexdigest()


def _loss(
    rows: Sequence[Row], losses_of: Callable[..., np.ndarray] | None, result: Mapping[str, Any]
) -> Resampled | None:
    """Of the lines' own losses; of an older file without, of what they say of probabilities."""
    if all(row.get("loss") is not None for row in rows):
        pairs = [(row["loss"], row.get("terms", 1)) for row in rows]
        losses, terms = np.array(pairs, dtype=float).T
        if (terms == terms[0]).all():
            return resampled.mean(losses)
        return resampled.ratio(losses * terms, terms)
    return None if losses_of is None else resampled.mean(losses_of(rows, result))


def _asked(
    result: Mapping[str, Any], known: Mapping[str, Callable[[], Resampled | None]]
) -> dict[str, Resampled]:
    """Of the known metrics those that the run has."""
    found = {}
    for name, value in result["metrics"].items():
        score = known[name]() if value is not None and name in known else None
        if score is not None:
            found[name] = score
    return found


def _numbers(names: Sequence[str], result: Mapping[str, Any]) -> np.ndarray:
    """Of labels, as result.json counts them."""
    numbers = {name: i for i, name in enumerate(result["labels"])}
    return np.array([numbers[name] for name in names], dtype=int)


def _of_classes(rows: Sequence[Row], result: Mapping[str, Any]) -> dict[str, Resampled]:
    found, true = (_numbers([row[k] for row in rows], result) for k in ("prediction", "label"))
    return _asked(
        result,
        {
            "accuracy": lambda: resampled.accuracy(found, true),
            "f1": lambda: resampled.binary_f1(found, true),
            "macro_f1": lambda: resampled.macro_f1(found, true),
            "matthews": lambda: resampled.matthews(found, true),
        },
    )


def _class_losses(rows: Sequence[Row], result: Mapping[str, Any]) -> np.ndarray:
    true = _numbers([row["label"] for row in rows], result)
    shares = np.array([row["probabilities"] for row in rows])[np.arange(len(rows)), true]
    return -np.log(np.clip(shares, LEAST, 1.0))


def _marks(sets: Sequence[Sequence[str]], result: Mapping[str, Any]) -> np.ndarray:
    """(examples, labels) which labels each example has."""
    return np.array([[name in names for name in result["labels"]] for names in sets], dtype=bool)


def _of_labels(rows: Sequence[Row], result: Mapping[str, Any]) -> dict[str, Resampled]:
    found, true = (_marks([row[k] for row in rows], result) for k in ("prediction", "label"))
    return _asked(
        result,
        {
            "micro_f1": lambda: resampled.label_sets(found, true, "micro"),
            "macro_f1": lambda: resampled.label_sets(found, true, "macro"),
            "exact_match": lambda: resampled.accuracy(found, true),
        },
    )


def _label_losses(rows: Sequence[Row], result: Mapping[str, Any]) -> np.ndarray:
    true = _marks([row["label"] for row in rows], result)
    shares = np.array([row["probabilities"] for row in rows])
    right = np.clip(np.where(true, shares, 1 - shares), LEAST, 1.0)
    return np.asarray(-np.log(right).mean(axis=1))


def _of_number(rows: Sequence[Row], result: Mapping[str, Any]) -> dict[str, Resampled]:
    found, true = np.array([(row["prediction"], row["label"]) for row in rows], dtype=float).T
    return _asked(
        result,
        {
            "pearson": lambda: resampled.pearson(found, true),
            "spearman": lambda: resampled.spearman(found, true),
        },
    )


def _squared_errors(rows: Sequence[Row], result: Mapping[str, Any]) -> np.ndarray:
    found, true = np.array([(row["prediction"], row["label"]) for row in rows], dtype=float).T
    return np.asarray((found - true) ** 2)


def _of_tags(rows: Sequence[Row], result: Mapping[str, Any]) -> dict[str, Resampled]:
    from seqeval.metrics.sequence_labeling import get_entities  # as metrics.tags

    counts = []
    for row in rows:
        found, true = (set(get_entities(row[k])) for k in ("prediction", "tags"))
        counts.append((len(found & true), len(found), len(true)))
    table = np.array(counts, dtype=float)
    right = [sum(a == b for a, b in zip(r["prediction"], r["tags"], strict=True)) for r in rows]
    return _asked(
        result,
        {
            **{
                name: lambda name=name: resampled.of_tags(table, name)  # type: ignore[misc]
                for name in ("f1", "precision", "recall")
            },
            "token_accuracy": lambda: resampled.ratio(right, [len(row["tags"]) for row in rows]),
        },
    )


def _of_text(rows: Sequence[Row], result: Mapping[str, Any]) -> dict[str, Resampled]:
    texts = [row["prediction"] for row in rows]
    references = [row.get("references") or [row["target"]] for row in rows]
    task = (result.get("configuration") or {}).get("task")
    told = task.get("tokenization", "auto") if isinstance(task, Mapping) else "auto"
    check_tokenization(told, "task.tokenization")
    cut = chosen(told, references)
    return _asked(
        result,
        {
            name: lambda name=name: drawn_text(name, texts, references, cut)  # type: ignore[misc]
            for name in result["metrics"]
        },
    )


def _of_spans(rows: Sequence[Row], result: Mapping[str, Any]) -> dict[str, Resampled]:
    def each(metric: str) -> np.ndarray:
        of_one = spans.SPAN_METRICS[metric]
        return np.array([of_one(row["prediction"], row["answers"]) for row in rows])

    return _asked(
        result,
        {
            "f1": lambda: resampled.mean(each("f1")),
            "exact_match": lambda: resampled.mean(each("exact_match"), share=True),
        },
    )


# For each kind of task: the scores, and the losses that lines without a loss of their own tell of.
KINDS: dict[str, tuple[Callable[..., dict[str, Resampled]], Any]] = {
    CLASSES: (_of_classes, _class_losses),
    LABELS: (_of_labels, _label_losses),
    NUMBER: (_of_number, _squared_errors),
    TAGS: (_of_tags, None),
    TEXT: (_of_text, None),
    SPANS: (_of_spans, None),
    CHOICES: (_of_classes, _class_losses),
}
