"""Notice while a run goes on what makes its result mean little: hardly trained, or a constant."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

from experiments.answers import NUMBER, TAGS, TEXT
from experiments.verdicts.verdict import UPPER_STEPS

if TYPE_CHECKING:
    from bilevel.cutting import Cut
    from experiments.tasks.task import TaskData

__all__ = ["about_cut", "about_predictions", "about_training", "about_upper_steps"]

# Numbers whose spread is this share of the labels' are hardly more than their mean.
SPREAD = 0.01


def about_upper_steps(stage: str, steps: int) -> str | None:
    """Too few steps of an upper level to have learned anything; None if there is no doubt."""
    if steps >= UPPER_STEPS:
        return None
    return (
        f"stage {stage}: its upper level takes only {steps} steps, and below about {UPPER_STEPS} "
        "what it learns hardly leaves where it starts: train longer (train.epochs), on more data "
        "or in smaller batches (train.batch_size)"
    )


def about_cut(cut: Cut | None) -> list[str]:
    """An adapter that learned nothing, or too few examples to cut by; empty without a doubt."""
    if cut is None or cut.frontier is None:
        return []
    if cut.frontier.learned:
        taken = sum((cut.ranks or {}).values()) == cut.frontier.chosen
        return [cut.frontier.doubt] if taken and cut.frontier.doubt is not None else []
    kept = "the whole adapter is kept" if cut.keep is None else "the ranks are as told"
    return [
        f"{cut.frontier.nothing_learned}, so {kept}: train longer (train.epochs), at another "
        "learning rate (train.lr) or on more data"
    ]


def about_training(stage: str, metrics: Path, key: str) -> str | None:
    """A training loss that never fell: its last quarter is no lower than its first.

    Args:
        stage: its name.
        metrics: metrics.jsonl.
        key: of the lower level's loss in it.
    """
    lines = map(json.loads, metrics.read_text(encoding="utf-8").splitlines())
    losses = [
        line[key]
        for line in lines
        if line["stage"] == stage and line["kind"] == "train" and line.get(key) is not None
    ]
    if len(losses) < 2:
        return None
    quarter = math.ceil(len(losses) / 4)
    first, last = fmean(losses[:quarter]), fmean(losses[-quarter:])
    if last < first:
        return None
    return (
        f"stage {stage}: the training loss did not fall, it was {first:.4g} in the first quarter "
        f"and {last:.4g} in the last: try another learning rate (train.lr), or train longer"
    )


def about_predictions(task: TaskData, predictions: Mapping[str, list[Any]]) -> list[str]:
    """Test sets on which the model says nothing that a guess without looking does not."""
    found = []
    for name, said in predictions.items():
        records = task.records(said, task.tests[name])
        doubt = _about(task.answers.kind, records) if len(records) > 1 else None
        if doubt is not None:
            which = "the test" if len(predictions) == 1 else f"the test set {name}"
            found.append(f"{which}: {doubt}")
    return found


def _about(kind: str, records: Sequence[dict[str, Any]]) -> str | None:
    said = [record["prediction"] for record in records]
    if kind == NUMBER:
        spread, labels = pstdev(said), pstdev(record["label"] for record in records)
        if spread <= SPREAD * labels:
            return f"every prediction is about {fmean(said):.4g}, whatever the text: a constant"
        return None
    if kind == TAGS:
        tags = Counter(tag for row in said for tag in row)
        right = {tag for record in records for tag in record["tags"]}
        if len(tags) == 1 and len(right) > 1:
            return f"every word is given the tag {next(iter(tags))!r}: a constant"
        return None
    answers = Counter(map(_text, said))
    answer = answers.most_common(1)[0][0]
    shared = len(records) if kind != TEXT else len({r["source"] for r in records})
    if len(answers) == 1 and shared > 1:
        return f"every example is answered by {answer!r}: a constant"
    return None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
