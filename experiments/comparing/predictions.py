"""Read predictions.jsonl back: which examples it is of, and the run's scores on draws of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from bilevel.errors import UserError
from bilevel.reading import parsed, read_text
from experiments.answers import CLASSES, LABELS, NUMBER, TAGS, TEXT
from experiments.metrics import resampled
from experiments.metrics.resampled import Resampled
from experiments.metrics.text import chosen
from experiments.metrics.text.drawn import drawn_text
from experiments.metrics.text.tokenization import check_tokenization

__all__ = ["FILE", "Predictions", "read"]

FILE = "predictions.jsonl"
# Half of the last digit of a probability that is written, for one that is written as 0 or 1.
LEAST = 5e-7
AGREE = 1e-6  # by which a score that is computed again may differ
# What a line says of the example, not of the model.
OF_EXAMPLE = ("test", "index", "label", "words", "tags", "source", "target", "references")


class _Line(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow", strict=True)

    test: str
    key: str | None = None
    loss: float | None = None
    terms: int = 1


class _OfClasses(_Line):
    label: str
    prediction: str
    probabilities: list[float]


class _OfLabels(_Line):
    label: list[str]
    prediction: list[str]
    probabilities: list[float]


class _OfNumber(_Line):
    label: float
    prediction: float


class _OfTags(_Line):
    prediction: list[str]
    words: list[str]
    tags: list[str]


class _OfText(_Line):
    prediction: str
    source: str
    target: str
    references: list[str]


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
    shape, scores_of, losses_of = KINDS[kind]
    rows, lines = _read(path, shape)
    found = scores_of(rows, result)
    for name, score in found.items():
        said = result["metrics"][name]
        if not abs(score.value - said) <= AGREE * max(1.0, abs(said)):
            raise UserError(
                f"{path} has {name} {score.value:.4f}, and result.json beside it {said:.4f}: they "
                "are not of the same run"
            )
    keys = [row.key for row in rows]
    return Predictions(
        _checksum([{k: line[k] for k in OF_EXAMPLE if k in line} for line in lines]),
        None if None in keys else _checksum(keys),
        len(rows),
        found,
        _loss(rows, losses_of, result),
    )


def _read(path: Path, shape: type[_Line]) -> tuple[list[Any], list[dict[str, Any]]]:
    rows, lines = [], []
    for number, text in enumerate(read_text(path).splitlines(), 1):
        place = f"{path}, line {number}"
        line = parsed(text, place)
        try:
            rows.append(shape.model_validate(line))
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise UserError(f"{place} is damaged: {key}: {first['msg'].lower()}") from error
        lines.append(line)
    if len(rows) < 2:
        raise UserError(f"{path} has fewer than two lines")
    return rows, lines


def _checksum(values: Sequence[Any]) -> str:
    found = hashlib.sha256()
    for value in values:
        found.update(json.dumps(value, sort_keys=True).encode() + b"\n")
    return found.hexdigest()


def _loss(
    rows: Sequence[Any], losses_of: Callable[..., np.ndarray] | None, result: Mapping[str, Any]
) -> Resampled | None:
    """Of the lines' own losses; of an older file without, of what they say of probabilities."""
    if all(row.loss is not None for row in rows):
        losses, terms = np.array([(row.loss, row.terms) for row in rows], dtype=float).T
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


def _numbers(names: Sequence[str], labels: Sequence[str], said: str) -> np.ndarray:
    numbers = {name: i for i, name in enumerate(labels)}
    if missing := [name for name in names if name not in numbers]:
        raise UserError(f"{FILE} has the {said} {missing[0]!r}, which result.json does not name")
    return np.array([numbers[name] for name in names])


def _labels(rows: Sequence[Any], result: Mapping[str, Any]) -> list[str]:
    """Of the classes, each of which has its probability in every line."""
    labels = list(result.get("labels") or ())
    if any(len(row.probabilities) != len(labels) for row in rows):
        raise UserError(f"{FILE} has not as many probabilities in each line as there are labels")
    return labels


def _of_classes(rows: Sequence[_OfClasses], result: Mapping[str, Any]) -> dict[str, Resampled]:
    labels = _labels(rows, result)
    found = _numbers([row.prediction for row in rows], labels, "prediction")
    true = _numbers([row.label for row in rows], labels, "label")
    return _asked(
        result,
        {
            "accuracy": lambda: resampled.accuracy(found, true),
            "f1": lambda: resampled.binary_f1(found, true),
            "macro_f1": lambda: resampled.macro_f1(found, true),
            "matthews": lambda: resampled.matthews(found, true),
        },
    )


def _class_losses(rows: Sequence[_OfClasses], result: Mapping[str, Any]) -> np.ndarray:
    true = _numbers([row.label for row in rows], _labels(rows, result), "label")
    shares = np.array([row.probabilities for row in rows])[np.arange(len(rows)), true]
    return -np.log(np.clip(shares, LEAST, 1.0))


def _marks(sets: Sequence[Sequence[str]], labels: Sequence[str], said: str) -> np.ndarray:
    marks = np.zeros((len(sets), len(labels)), dtype=bool)
    for row, names in zip(marks, sets, strict=True):
        row[_numbers(names, labels, said).astype(int)] = True
    return marks


def _of_labels(rows: Sequence[_OfLabels], result: Mapping[str, Any]) -> dict[str, Resampled]:
    labels = _labels(rows, result)
    found = _marks([row.prediction for row in rows], labels, "prediction")
    true = _marks([row.label for row in rows], labels, "label")
    return _asked(
        result,
        {
            "micro_f1": lambda: resampled.label_sets(found, true, "micro"),
            "macro_f1": lambda: resampled.label_sets(found, true, "macro"),
            "exact_match": lambda: resampled.accuracy(found, true),
        },
    )


def _label_losses(rows: Sequence[_OfLabels], result: Mapping[str, Any]) -> np.ndarray:
    true = _marks([row.label for row in rows], _labels(rows, result), "label")
    shares = np.array([row.probabilities for row in rows])
    right = np.clip(np.where(true, shares, 1 - shares), LEAST, 1.0)
    return np.asarray(-np.log(right).mean(axis=1))


def _of_number(rows: Sequence[_OfNumber], result: Mapping[str, Any]) -> dict[str, Resampled]:
    found, true = np.array([(row.prediction, row.label) for row in rows]).T
    return _asked(
        result,
        {
            "pearson": lambda: resampled.pearson(found, true),
            "spearman": lambda: resampled.spearman(found, true),
        },
    )


def _squared_errors(rows: Sequence[_OfNumber], result: Mapping[str, Any]) -> np.ndarray:
    found, true = np.array([(row.prediction, row.label) for row in rows]).T
    return np.asarray((found - true) ** 2)


def _of_tags(rows: Sequence[_OfTags], result: Mapping[str, Any]) -> dict[str, Resampled]:
    from seqeval.metrics.sequence_labeling import get_entities  # as metrics.tags

    if any(len({len(row.prediction), len(row.tags), len(row.words)}) > 1 for row in rows):
        raise UserError(f"{FILE} has a sentence with more or fewer tags than words")
    counts = []
    for row in rows:
        found, true = set(get_entities(row.prediction)), set(get_entities(row.tags))
        counts.append((len(found & true), len(found), len(true)))
    table = np.array(counts, dtype=float)
    right = [sum(a == b for a, b in zip(r.prediction, r.tags, strict=True)) for r in rows]
    return _asked(
        result,
        {
            **{
                name: lambda name=name: resampled.of_tags(table, name)  # type: ignore[misc]
                for name in ("f1", "precision", "recall")
            },
            "token_accuracy": lambda: resampled.ratio(right, [len(row.tags) for row in rows]),
        },
    )


def _of_text(rows: Sequence[_OfText], result: Mapping[str, Any]) -> dict[str, Resampled]:
    texts, references = [row.prediction for row in rows], [row.references for row in rows]
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


# For each kind of task: a line's form, the scores, and the losses that an older file tells of.
KINDS: dict[str, tuple[type[_Line], Callable[..., dict[str, Resampled]], Any]] = {
    CLASSES: (_OfClasses, _of_classes, _class_losses),
    LABELS: (_OfLabels, _of_labels, _label_losses),
    NUMBER: (_OfNumber, _of_number, _squared_errors),
    TAGS: (_OfTags, _of_tags, None),
    TEXT: (_OfText, _of_text, None),
}
