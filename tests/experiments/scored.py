"""Finished runs by their files alone: result.json's values, and predictions.jsonl."""

import json

import numpy as np

from experiments.metrics import labels
from experiments.results import predictions_file

NAMES = ["no", "yes"]


def result(folder, method="lora", seed=0, **other):
    return {
        "method": method,
        "variant": "",
        "task": "films",
        "model": "small",
        "seed": seed,
        "kind": "classes",
        "metrics": {"accuracy": 0.5},
        "primary_metric": "accuracy",
        "labels": NAMES,
        "train_loss": 0.1,
        "validation_loss": None,
        "test_loss": 0.4,
        "adapter_parameters": 900,
        "head_parameters": 100,
        "processor_seconds": {"train": 10.0},
        "folder": str(folder),
        **other,
    }


def classes_run(folder, right, method="lora", seed=0, score="accuracy", true=None, **other):
    """A run that answers rightly where it is told, with a probability of 0.8."""
    folder.mkdir(parents=True, exist_ok=True)
    right = np.asarray(right, dtype=bool)
    true = np.arange(len(right)) % 2 if true is None else true
    found = np.where(right, true, 1 - true)
    lines = []
    for i, (a, b) in enumerate(zip(found, true, strict=True)):
        row = {"test": "test", "index": i, "label": NAMES[b], "prediction": NAMES[a]}
        lines.append({**row, "probabilities": [0.8, 0.2] if a == 0 else [0.2, 0.8]})
    write(folder, lines)
    metrics = {name: labels.METRICS[name](found, true) for name in ("accuracy", "f1")}
    return result(folder, method, seed, **{"metrics": metrics, "primary_metric": score, **other})


def write(folder, lines):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / predictions_file.FILE).write_text(text)
