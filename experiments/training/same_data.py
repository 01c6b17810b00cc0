"""Tell whether a run goes on with the data, and from the weights, that it began with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from bilevel.errors import UserError, listed
from experiments.config.plan import Plan
from experiments.models.folder_digest import folder_digest
from experiments.results import record
from experiments.stored_data.examples import StoredExamples, content_digest
from experiments.stored_data.parts import sources_of
from experiments.tasks.sources import UNIFORM, Sourced
from experiments.tasks.task import TaskData
from experiments.training import warm_start
from experiments.training.checksums import SOURCES, is_split
from problems.lora import LoRA

__all__ = ["check_data", "data_digests", "file_digests", "model_digests"]


def data_digests(task: TaskData) -> dict[str, str]:
    """A checksum of what the examples of each split say, in their order, and of their sources.

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
    if "train" in found and None not in (names := sources_of(task.train)):
        found[SOURCES] = _digest("\n".join(map(repr, names)).encode())
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


def model_digests(plan: Plan) -> dict[str, str]:
    """A checksum of each folder that has the weights to begin with, by its option.

    A hub id has none, and neither has an installed package.
    """
    found = {}
    spec = plan.model
    if spec.pretrained is not None and (own := Path(spec.pretrained).expanduser()).is_dir():
        found["model.pretrained"] = folder_digest(own)
    if spec.warm_start is not None:
        values = warm_start.read_run(spec.warm_start, spec.title)
        saved = record.saved_folder(values, Path(spec.warm_start).expanduser())
        found["model.warm_start"] = folder_digest(saved)
    return found


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def check_data(folder: Path, saved: Mapping[str, str], given: Mapping[str, str]) -> None:
    """Refuse other data than the run in a folder began with.

    Args:
        folder: the run's.
        saved: :func:`data_digests`, :func:`file_digests` and :func:`model_digests` of what it
            began with; empty of an older run.
        given: of what there is now.

    Raises:
        UserError: names the splits, or options, that differ.
    """
    both = saved.keys() & given.keys()
    if all(any(map(is_split, sums)) for sums in (saved, given)):
        # A split that was not there, or is there no more, makes other data too.
        both |= {name for name in saved.keys() | given.keys() if is_split(name)}
    other = sorted(name for name in both if saved.get(name) != given.get(name))
    files = [name for name in other if "." in name]
    splits = [name for name in other if name not in files]
    if splits:
        what = f"the examples of {listed([name for name in splits if name != SOURCES])}"
        if splits == [SOURCES]:
            what = "the sources of the training examples"
        raise UserError(
            f"{folder} holds a run of other data: {what} are not those that it began with; give "
            "these, or begin a new run in another folder"
        )
    if files:
        raise UserError(
            f"{folder} holds a run that began with another content of what "
            f"{' and '.join(files)} {'name' if len(files) > 1 else 'names'}: put that back, or "
            "begin a new run in another folder"
        )
