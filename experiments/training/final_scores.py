"""Score what a run has saved, and say what result.json is to say."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from bilevel.data import some
from bilevel.sharding import is_sharded
from bilevel.views import taken
from experiments.cli.writing import write_atomically
from experiments.metrics.ranks import information, linear_costs, recovery
from experiments.metrics.weight_change import moved
from experiments.plots.records import final_values
from experiments.results import predictions_file, record, source_table, wrongest
from experiments.results.metrics_file import read_metrics
from experiments.results.saved_model import Saved, load
from experiments.tasks.examples import ChoiceExample, Example, LabelSetExample, SpanExample
from experiments.tasks.kinds.label_sets import LabelSetData
from experiments.tasks.kinds.spans import SpanData
from experiments.tasks.kinds.tags import TaggedData
from experiments.tasks.kinds.text import TextData
from experiments.tasks.sources import sizes
from experiments.tasks.task import TaskData
from experiments.training import decided_ranks, warm_start
from experiments.training.doubts import about_cut, about_predictions
from experiments.training.fine_tuning_job import FineTuningJob
from experiments.training.freed_memory import give_back
from experiments.training.scoring import example_losses, forward, score
from experiments.training.watched import digest
from problems.common.method import Outcome

__all__ = ["assemble", "decided", "final_scores", "records", "test_sizes"]

# The train loss in the result is over this many training examples at most.
TRAIN_LOSS_EXAMPLES = 5000
KEY_LETTERS = 16  # of the checksum of an example's texts
LOSS_DIGITS = 6  # of an example's loss, after the point


def final_scores(
    job: FineTuningJob, outcome: Outcome, saved: Saved, folder: Path
) -> dict[str, Any]:
    """Scores of the model as it lies on the disk, read as its users would, in full precision.

    What is reported is what a user of the adapter gets, by construction. The model as it was
    trained is given up: it is on the disk.
    """
    _let_go(outcome)
    model = job.place(load(saved.folder, job.stock_model()))
    job.task = decided(job, job.task, model)
    scores = score(model, job.task, job.tests, job.data.collate, tokenizer=job.tokenizer)
    told = records(job.task, scores.predictions)
    _write_predictions(told, _to_compare(job, model), folder)
    wrongest.write(job.task, scores.predictions, job.tokenizer, folder)
    rows = taken(job.data.examples, some(len(job.data.examples), TRAIN_LOSS_EXAMPLES))
    train_loss = forward(model, job.task, rows, job.data.collate)[1] if rows else None
    return {
        "metrics": scores.metrics,
        "predictions": told,
        "warnings": [*about_predictions(job.task, scores.predictions), *about_cut(outcome.cut)],
        "entities": job.task.entities(scores.predictions),
        "test_loss": scores.loss,
        "train_loss": train_loss,
        # Merging needs whole matrices, of which a process may have a part only.
        "update": None if is_sharded(model) else moved(model.cpu(), job.stock_model),
        "planted": _planted_score(job, outcome, folder),
        "decided": _decided(job, outcome, folder),
        "source_weights": _source_weights(job, outcome, folder),
    }


def decided(job: FineTuningJob, task: TaskData, model: nn.Module) -> TaskData:
    """The task with the threshold that ``model`` does best with on the validation data.

    Args:
        job: whose data they are.
        task: as it was asked for; one that chooses no threshold is given back.
        model: whose threshold it is.
    """
    if not isinstance(task, LabelSetData) or task.threshold is not None:
        return task
    found, _ = forward(model, task, job.data.validation or (), job.data.collate)
    return task.decided(found, task.validation or ())


def _let_go(outcome: Outcome) -> None:
    """Give up the trained model, with its optimiser's state: of the engine only circles are left.

    A callback of the user's that holds it still has it.
    """
    outcome.model = None
    give_back()


def _source_weights(job: FineTuningJob, outcome: Outcome, folder: Path) -> dict[str, Any] | None:
    """What each source was worth, of a method that has learned it."""
    if outcome.source_weights is None:
        return None
    examples = outcome.source_examples or sizes(job.task.train) or {}
    return source_table.of_records(read_metrics(folder), examples)


def _decided(job: FineTuningJob, outcome: Outcome, folder: Path) -> dict[str, Any] | None:
    """How far the ranks are decided, of a method that chooses ranks."""
    method, records = job.plan.method, read_metrics(folder)
    found = decided_ranks.of_method(method, records, outcome.ranks, outcome.cut)
    return None if found is None else found.as_json()


def records(task: TaskData, predictions: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """What predictions.jsonl says of each test example, of all test sets in turn."""
    return [
        {"test": name, **record}
        for name, found in predictions.items()
        for record in task.records(found, task.tests[name])
    ]


def _write_predictions(
    told: list[dict[str, Any]], more: list[dict[str, Any]], folder: Path
) -> None:
    """predictions.jsonl: what was said of each test example, a line each; none without a test."""
    lines = [
        json.dumps({**said, **other}, ensure_ascii=False)
        for said, other in zip(told, more, strict=True)
    ]
    if lines:
        write_atomically(folder / predictions_file.FILE, "\n".join(lines) + "\n")


def _to_compare(job: FineTuningJob, model: nn.Module) -> list[dict[str, Any]]:
    """By what runs are compared, of each test example, of all test sets in turn.

    Of texts that the predictions do not show there is a checksum, ``key``, and where the loss does
    not follow from the prediction, the ``loss``.
    """
    found = []
    for name, examples in job.task.tests.items():
        losses = _losses(job, model, name) or [{}] * len(examples)
        found += [{**_key(e), **loss} for e, loss in zip(examples, losses, strict=True)]
    return found


def _key(example: Any) -> dict[str, str]:
    if isinstance(example, SpanExample):  # whose question the predictions show
        said: Any = example.context
    elif isinstance(example, ChoiceExample):
        said = [example.texts, example.choices]
    elif isinstance(example, (Example, LabelSetExample)):
        said = example.texts
    else:
        return {}
    texts = json.dumps(said).encode()
    return {"key": hashlib.sha256(texts).hexdigest()[:KEY_LETTERS]}


def _losses(job: FineTuningJob, model: nn.Module, name: str) -> list[dict[str, Any]]:
    """The mean loss of each example over its words, tokens or bounds, and how many they are."""
    if not isinstance(job.task, (SpanData, TaggedData, TextData)):
        return []
    found = example_losses(model, job.task, job.tests[name], job.data.collate)
    return [
        {"loss": round(float(total) / max(int(terms), 1), LOSS_DIGITS), "terms": int(terms)}
        for total, terms in zip(found.totals, found.terms, strict=True)
    ]


def _planted_score(job: FineTuningJob, outcome: Outcome, folder: Path) -> dict[str, Any] | None:
    """How well the right ranks were found, where the task knows them and the method has ranks."""
    true = job.task.true_ranks
    if true is None or outcome.ranks is None:
        return None
    costs = linear_costs(job.stock_model(), list({**true, **outcome.ranks}))
    values = final_values(read_metrics(folder))
    return {
        **recovery(true, outcome.ranks, costs),
        "information": information({k: v.tolist() for k, v in values.items()}, true)
        if values
        else None,
    }


def assemble(
    job: FineTuningJob,
    stages: dict[str, dict[str, Any]],
    outcome: Outcome,
    saved: Saved,
    scores: dict[str, Any],
) -> dict[str, Any]:
    """The values of result.json; docs/results.md explains each."""
    task, names = job.task, job.plan.names
    validation = _validation(stages, outcome)
    nothing = {"T1": None, "T2": None, "hypergradient": None}
    first: dict[str, Any] = next((s for s in stages.values() if s["T1"] is not None), nothing)
    return {
        "schema_version": record.SCHEMA_VERSION,
        "method": names["method"],
        "task": names["task"],
        "dataset": job.plan.task.published(),
        "model": names["model"],
        "seed": job.seed,
        "warm_start": warm_start.described(job.plan.model, names["model"]),
        "metrics": scores["metrics"],
        "kind": task.answers.kind,
        "primary_metric": task.primary_metric,
        "metric_settings": task.metric_settings,
        "entities": scores["entities"],
        "train_loss": scores["train_loss"],
        "validation_loss": outcome.validation_loss if validation is None else validation["loss"],
        "validation": validation,
        "test_loss": scores["test_loss"],
        "ranks": outcome.ranks,
        "decided": scores["decided"],
        "cut": None if outcome.cut is None else outcome.cut.criterion,
        "lora": outcome.lora,
        "source_weights": scores["source_weights"],
        "probe": outcome.probe,
        "trainable_parameters": outcome.trainable_parameters,
        "adapter_parameters": saved.parameters,
        "head_parameters": saved.head_parameters,
        "data": {**_sizes(task, outcome), **test_sizes(task)},
        "train_source": task.train_source,
        "test_source": task.test_source,
        "threshold": task.threshold if isinstance(task, LabelSetData) else None,
        "labels": None if task.answers.names is None else list(task.answers.names),
        "hypergradient": first["hypergradient"],
        "engine": {
            "T1": first["T1"],
            "T2": first["T2"],
            "steps": {name: s["steps"] for name, s in stages.items()},
            "precision": next((s["precision"] for s in stages.values()), None),
            "processes": job.plan.processes,
            "upper_steps": {
                name: s["upper_steps"]
                for name, s in stages.items()
                if s.get("upper_steps") is not None
            },
        },
        "kept": {name: s["kept"] for name, s in stages.items() if "kept" in s},
        "examples_seen": {
            level: sum(s["examples"][level] for s in stages.values())
            for level in ("lower", "upper")
        },
        "update": scores["update"],
        "true_ranks": task.true_ranks,
        "planted": scores["planted"],
        "seconds": {name: s["seconds"] for name, s in stages.items()},
        "processor_seconds": {name: s["processor_seconds"] for name, s in stages.items()},
        "peak_memory_mib": round(_peak_memory_mib(), 1),
        "adapter_dir": str(saved.folder),
        "warnings": [
            *task.warnings,
            *job.warnings,
            *(words for s in stages.values() for words in s.get("warnings", ())),
            *scores["warnings"],
        ],
        # But for what is of this run alone: a resumed one has the same result.
        "configuration": {k: v for k, v in job.plan.config.items() if k != "run"},
        "versions": {"python": platform.python_version(), **record.versions()},
    }


def _validation(stages: dict[str, dict[str, Any]], outcome: Outcome) -> dict[str, Any] | None:
    """Of the stage that the outcome names, else of the last with validation data; None without one.

    What an earlier stage learned from them is in what was saved: its ranks, or its gates.
    """
    scored = outcome.validation_scores
    if scored is not None:  # without the engine, in one stage
        metrics = dict(scored.scores)
        return {
            "loss": metrics.pop("loss"),
            "metrics": metrics,
            "examples": len(scored.rows),
            "digest": digest(scored.rows),
            "source": scored.source,
            "trained_on": outcome.validation_trained_on,
        }
    found = [s["validation"] for s in stages.values() if s.get("validation") is not None]
    if not found:
        return None
    named = stages.get(outcome.validation_stage or "") or {}
    last: dict[str, Any] = named.get("validation") or found[-1]
    since = outcome.validation_trained_on and last["source"] == "training"
    before = any(s["trained_on"] and s["digest"] == last["digest"] for s in found)
    if last["source"] == "validation":  # also while a stage was watched by others
        before = before or any(s.get("split_trained_on") for s in stages.values())
    return {**last, "trained_on": before or since}


def _sizes(task: TaskData, outcome: Outcome) -> dict[str, int]:
    """Examples in the parts of the training data, and in the task's own validation split."""
    own = {} if task.validation is None else {"validation": len(task.validation)}
    return {**outcome.split, **{k: n for k, n in own.items() if k not in outcome.split}}


def test_sizes(task: TaskData) -> dict[str, int]:
    """Examples in each test set: ``test``, or ``test_matched`` and so on."""
    sizes = {name: len(rows) for name, rows in task.tests.items()}
    return {name if name == "test" else f"test_{name}": size for name, size in sizes.items()}


def _peak_memory_mib() -> float:
    """Most memory held at once: of the GPU if one was used, else of the process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0:
        return torch.cuda.max_memory_allocated() / 2**20
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / 2**20
    import resource  # of Unix alone

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on macOS.
    return largest / (2**20 if sys.platform == "darwin" else 2**10)
