"""Tell whether a run goes on with the data that it began with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from bilevel.errors import UserError, listed
from experiments.config.plan import Plan
from experiments.stored_data.examples import StoredExamples, content_digest
from experiments.stored_data.parts import sources_of
from experiments.tasks.sources import UNIFORM, Sourced
from experiments.tasks.task import TaskData
from problems.lora import LoRA

__all__ = ["check_data", "data_digests", "file_digests"]


def data_digests(task: TaskData) -> dict[str, str]:
    """A checksum of what the examples of each split say, in their order.

    Streams have none, and neither have examples whose parts are not known, as of a task of one's
    own.
    """
    splits = {**task.tests, "train": task.train, "validation": task.validation or ()}
    found = {}
    for name, examples in splits.items():
        known = isinstance(examples, list | tuple | StoredExamples) and len(examples) > 0
        if known and StoredExamples.takes(examples[0]):
            # A part of stored ones is read: it may lie in memory the next time.
            part = isinstance(examples, StoredExamples) and examples.indices is not None
            found[name] = content_digest(iter(examples) if part else examples)
    return found


def file_digests(plan: Plan, task: TaskData) -> dict[str, str]:
    """A checksum of what the files of weights and of ranks say, by their option."""
    found = {}
    own = isinstance(plan.task, Sourced) and plan.task.source_weights not in (None, UNIFORM)
    if own and task.draw_weights is not None:
        weights = dict(zip(map(str, sources_of(task.train)), task.draw_weights, strict=True))
        found["task.source_weights"] = _digest(json.dumps(sorted(weights.items())).encode())
    ranks = plan.method.found_in_file() if isinstance(plan.method, LoRA) else None
    if ranks is not None:
        found["method.ranks"] = _digest(json.dumps(sorted(ranks.items())).encode())
    return found


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def check_data(folder: Path, saved: Mapping[str, str], given: Mapping[str, str]) -> None:
    """Refuse other data than the run in a folder began with.

    Args:
        folder: the run's.
        saved: :func:`data_digests` and :func:`file_digests` of what it began with; empty of an
            older run.
        given: of what there is now.

    Raises:
        UserError: names the splits, or options, that differ.
    """
    other = sorted(name for name in saved.keys() & given.keys() if saved[name] != given[name])
    files = [name for name in other if "." in name]
    if len(other) > len(files):
        splits = [name for name in other if name not in files]
        raise UserError(
            f"{folder} holds a run of other data: the examples of {listed(splits)} are not those "
            "that it began with; give these, or begin a new run in another folder"
        )
    if files:
        raise UserError(
            f"{folder} holds a run that began with another content of the file "
            f"{' and of '.join(files)}: put that back, or begin a new run in another folder"
        )
