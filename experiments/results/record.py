"""result.json: what a run found, in one file of a fixed form."""

from __future__ import annotations

import json
import platform
import resource
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bilevel.errors import UserError
from experiments.cli.writing import write_atomically
from experiments.results.saved_model import Saved
from experiments.tasks.task import TaskData
from problems.common.method import Outcome

if TYPE_CHECKING:
    from experiments.training.job import FineTuningJob

__all__ = [
    "FILE",
    "SCHEMA_VERSION",
    "assemble",
    "gap",
    "read",
    "summary",
    "test_sizes",
    "versions",
    "write",
]

SCHEMA_VERSION = 1
FILE = "result.json"
PACKAGES = (
    *("torch", "transformers", "peft", "betty-ml", "datasets", "hydra-core", "numpy"),
    "bilevel-finetuning",
)


def assemble(
    job: FineTuningJob, outcome: Outcome, saved: Saved, scores: dict[str, Any]
) -> dict[str, Any]:
    """The values of result.json; docs/results.md explains each."""
    stages = job.summaries()
    two_level = [s for s in stages.values() if s["T1"] is not None]
    nothing = {"T1": None, "T2": None, "hypergradient": None}
    first: dict[str, Any] = two_level[0] if two_level else nothing
    return {
        "schema_version": SCHEMA_VERSION,
        "method": job.plan.names["method"],
        "task": job.plan.names["task"],
        "model": job.plan.names["model"],
        "seed": job.seed,
        "warm_start": job.warm_start,
        "metrics": scores["metrics"],
        "kind": job.task.answers.kind,
        "primary_metric": job.task.primary_metric,
        "metric_settings": job.task.metric_settings,
        "entities": scores["entities"],
        "train_loss": scores["train_loss"],
        "validation_loss": outcome.validation_loss,
        "test_loss": scores["test_loss"],
        "ranks": outcome.ranks,
        "trainable_parameters": outcome.trainable_parameters,
        "adapter_parameters": saved.parameters,
        "head_parameters": saved.head_parameters,
        "data": {**outcome.split, **test_sizes(job.task)},
        "train_source": job.task.train_source,
        "test_source": job.task.test_source,
        "labels": None if job.task.answers.names is None else list(job.task.answers.names),
        "hypergradient": first["hypergradient"],
        "engine": {
            "T1": first["T1"],
            "T2": first["T2"],
            "steps": {name: s["steps"] for name, s in stages.items()},
            "precision": next((s["precision"] for s in stages.values()), None),
        },
        "examples_seen": {
            level: sum(s["examples"][level] for s in stages.values())
            for level in ("lower", "upper")
        },
        "update": scores["update"],
        "true_ranks": job.task.true_ranks,
        "planted": scores["planted"],
        "seconds": {name: s["seconds"] for name, s in stages.items()},
        "processor_seconds": {name: s["processor_seconds"] for name, s in stages.items()},
        "peak_memory_mib": round(_peak_memory_mib(), 1),
        "adapter_dir": str(saved.folder),
        "versions": {"python": platform.python_version(), **versions()},
    }


def test_sizes(task: TaskData) -> dict[str, int]:
    """Examples in each test set: ``test``, or ``test_matched`` and so on."""
    sizes = {name: len(rows) for name, rows in task.tests.items()}
    return {name if name == "test" else f"test_{name}": size for name, size in sizes.items()}


def write(folder: Path, values: dict[str, Any]) -> None:
    """Write result.json, all of it or nothing."""
    write_atomically(folder / FILE, json.dumps(values, indent=2) + "\n")


def read(folder: Path) -> dict[str, Any] | None:
    """What result.json says, None if there is none.

    Raises:
        UserError: the file is not what :func:`write` writes.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is no JSON: {error}") from error
    if not isinstance(values, dict) or values.get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"{path} is not of schema version {SCHEMA_VERSION}")
    return values


def summary(values: dict[str, Any], folder: Path) -> str:
    """A few lines for the person who waited."""
    metrics = ", ".join(f"{name} {shown(value)}" for name, value in values["metrics"].items())
    lines = [
        f"{values['method']} on {values['task']}, {values['model']}, seed {values['seed']}",
        f"  test      {metrics}",
        f"  loss      train {shown(values['train_loss'])}, test {shown(values['test_loss'])}: "
        f"over-fitting gap {shown(gap(values))}",
    ]
    entities = values.get("entities")  # older runs have none
    if entities:
        types = [f"{name} {shown(scores['f1'])}" for name, scores in entities.items()]
        lines.append(f"  F1 of     {', '.join(types)}")
    if values["ranks"]:
        ranks = list(values["ranks"].values())
        lines.append(
            f"  ranks     mean {sum(ranks) / len(ranks):.2f}, {min(ranks)} to {max(ranks)} "
            f"in {len(ranks)} modules, {values['adapter_parameters']:,} parameters"
        )
    if values["planted"]:
        found = values["planted"]
        rank_correlation = "-" if found["spearman"] is None else f"{found['spearman']:.2f}"
        lines.append(
            f"  planted   rank correlation {rank_correlation}, exact {found['exact']:.0%} "
            f"(by chance {found['exact_by_chance']:.0%}), "
            f"{found['parameter_ratio']:.2f} x the parameters needed"
        )
    total = sum(values["seconds"].values())
    lines += [
        f"  time      {total:.1f} s ("
        + (", ".join(f"{name} {s:.1f}" for name, s in values["seconds"].items()) or "no training")
        + f"), peak memory {values['peak_memory_mib']:.0f} MiB",
        # as the folder is called: adapter, or model where the whole of it is saved
        f"  {Path(values['adapter_dir']).name:9} {values['adapter_dir']}",
    ]
    if (folder / "figures").is_dir():
        lines.append(f"  figures   {folder / 'figures'}")
    return "\n".join(lines)


def gap(values: Mapping[str, Any]) -> float | None:
    """The over-fitting gap, test loss less train loss; None without training data."""
    train = values["train_loss"]
    return None if train is None else values["test_loss"] - train


def shown(value: float | None) -> str:
    """A score with four digits after the point, or a dash where there is none."""
    return "-" if value is None else f"{value:.4f}"


def _peak_memory_mib() -> float:
    """Most memory held at once: of the GPU if one was used, else of the process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0:
        return torch.cuda.max_memory_allocated() / 2**20
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on macOS.
    return largest / (2**20 if platform.system() == "Darwin" else 2**10)


def versions() -> dict[str, str]:
    """The version of each package that a result may depend on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found
