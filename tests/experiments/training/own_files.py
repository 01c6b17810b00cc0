"""The user's own files of every kind of task, and words that train on them in a second."""

import csv
import json
from pathlib import Path
from typing import Any

from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.tasks.demo import Demo
from experiments.training.job import execute

Rows = list[dict[str, Any]]


def sentences(size: int, seed: int = 0, wrong: bool = False) -> Rows:
    """Sentences with a sentiment; ``wrong`` ones have the other one."""
    drawn = Demo(max_train=size, noise=0.0, data_seed=seed).load().train
    names = ["neg", "pos"]
    return [{"text": e.texts[0], "label": names[int(e.label) ^ wrong]} for e in drawn]


def write(folder: Path, **splits: Rows) -> Path:
    """A csv file for each split."""
    folder.mkdir(exist_ok=True, parents=True)
    for split, rows in splits.items():
        with open(folder / f"{split}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return folder


def three_files(folder: Path, validation: int = 24) -> Path:
    """Training data of mostly one class, validation data of the other, test data of both.

    So the longer it trains, the higher is the validation loss: the best evaluation is the first.
    """
    train = [{**row, "label": "neg" if i % 8 else "pos"} for i, row in enumerate(sentences(64))]
    other = [{**row, "label": "pos"} for row in sentences(validation, 1)]
    return write(folder, train=train, validation=other, test=sentences(32, 2))


def words(tiny: Path, data: Path, *more: str) -> list[str]:
    """Options of a run on the files."""
    return [
        *("model=hub", f"model.pretrained={tiny}", "task=classification", f"task.data_dir={data}"),
        *("task.text_columns=[text]", "train.batch_size=8", "train.lr=1e-2", "train.epochs=2"),
        *("engine.precision=fp32", "engine.metrics_every=2", "engine.checkpoint_every=3"),
        *("engine.evaluate_every=0.25", "run.figures=false", *more),
    ]


def run(folder: Path, options: list[str]) -> dict[str, Any]:
    """The result of a run in ``folder``."""
    return execute(Plan.of(compose_config(options)), folder)


def evaluations(folder: Path, kind: str = "validation") -> list[dict[str, Any]]:
    """What a run has written of its evaluations."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]
