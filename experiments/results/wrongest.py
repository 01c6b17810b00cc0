"""Keep the texts of the predictions that were most wrong: ``wrongest.jsonl`` of a run.

``predictions.jsonl`` has no text of classes and numbers, which would make it ten times as large,
and the data may be gone when somebody wants to read what the model got wrong.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.answers import CHOICES, CLASSES, LABELS, NUMBER, SPANS, TAGS
from experiments.cli.writing import write_atomically
from experiments.metrics import spans
from experiments.tasks.task import TaskData

__all__ = ["FILE", "KEPT", "largest", "write", "wrongness"]

FILE = "wrongest.jsonl"
KEPT = 50  # examples, over all test sets together
LETTERS = 2000  # of a text; the rest is cut
WITHOUT_TEXT = (CLASSES, LABELS, NUMBER, SPANS, CHOICES)


def wrongness(record: Mapping[str, Any], kind: str, labels: Sequence[str] | None) -> float:
    """How wrong a prediction is: 0 for a right one.

    Args:
        record: a line of ``predictions.jsonl``.
        kind: what the model puts out, as in result.json.
        labels: the names in the order of the model's outputs.

    Returns:
        Of a class 1 - p of the right one; of several labels the sum of |p - y| over them; of a
        number the absolute error; of tags how many words have another; of an answer in a text 1
        less its F1, times the probability that the model gave it. Of text always 0: how wrong it is
        no single number says.
    """
    if kind == NUMBER:
        return abs(float(record["prediction"]) - float(record["label"]))
    if kind == TAGS:
        pairs = zip(record["prediction"], record["tags"], strict=True)
        return float(sum(said != right for said, right in pairs))
    if kind == SPANS:
        missed = 1.0 - spans.f1(record["prediction"], record["answers"])
        return missed * float(record["probability"])
    if kind not in (CLASSES, LABELS, CHOICES) or record["prediction"] == record["label"]:
        return 0.0
    names, shares = list(labels or ()), record["probabilities"]
    if kind in (CLASSES, CHOICES):
        return 1.0 - float(shares[names.index(record["label"])])
    right = set(record["label"])
    pairs = zip(names, shares, strict=True)
    return float(sum(abs(share - (name in right)) for name, share in pairs))


def largest(
    records: Iterable[dict[str, Any]], kind: str, labels: Sequence[str] | None, most: int = KEPT
) -> list[dict[str, Any]]:
    """The records that are most wrong, the worst first, in memory for no more than these."""
    wrong = (
        (far, -number, record)
        for number, record in enumerate(records)
        if (far := wrongness(record, kind, labels)) > 0
    )
    return [record for _, _, record in heapq.nlargest(most, wrong, key=lambda found: found[:2])]


def write(
    task: TaskData, predictions: Mapping[str, list[Any]], tokenizer: Any, folder: Path
) -> None:
    """Write the file, a line an example, the worst first; nothing where none is wrong.

    Args:
        task: whose test sets were scored.
        predictions: of each test set, as :meth:`TaskData.records` takes them.
        tokenizer: reads the tokens of rows that have no text.
        folder: of the run.
    """
    kind, names = task.answers.kind, task.answers.names
    if kind not in WITHOUT_TEXT:
        return
    records = (
        {"test": name, **record}
        for name, found in predictions.items()
        for record in task.records(found, task.tests[name])
    )
    lines = [
        json.dumps({**record, "texts": [_cut(text) for text in texts]}, ensure_ascii=False)
        for record in largest(records, kind, names)
        if (texts := task.texts(task.tests[record["test"]][record["index"]], tokenizer))
    ]
    if lines:
        write_atomically(folder / FILE, "\n".join(lines) + "\n")


def _cut(text: str) -> str:
    return text if len(text) <= LETTERS else f"{text[:LETTERS]} …"
