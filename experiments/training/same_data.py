"""Tell whether a run goes on with the data that it began with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bilevel.errors import UserError, listed
from experiments.stored_data.examples import StoredExamples, content_digest
from experiments.tasks.task import TaskData

__all__ = ["check_data", "data_digests"]


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


def check_data(folder: Path, saved: Mapping[str, str], given: Mapping[str, str]) -> None:
    """Refuse other data than the run in a folder began with.

    Args:
        folder: the run's.
        saved: :func:`data_digests` of the data that it began with; empty of an older run.
        given: of the data now.

    Raises:
        UserError: names the splits that differ.
    """
    other = sorted(name for name in saved.keys() & given.keys() if saved[name] != given[name])
    if other:
        raise UserError(
            f"{folder} holds a run of other data: the examples of {listed(other)} are not those "
            "that it began with; give these, or begin a new run in another folder"
        )
