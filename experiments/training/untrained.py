"""Find the examples that a finished run's weights never trained on, its test set aside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bilevel.data import split
from experiments.training.watched import digest

if TYPE_CHECKING:
    from experiments.models.pretrained import LoadedModel
    from experiments.results.finished_run import SavedRun
    from experiments.tasks.task import TaskData


__all__ = ["Untrained", "untrained", "why_none"]

ASK = (
    "train with method.hold_out=0.2, which keeps a part of the training data, or give the task a "
    "file validation beside its test file"
)


@dataclass(frozen=True)
class Untrained:
    """Held-out examples.

    Attributes:
        rows: tokenised; none where there are none.
        source: what they are of, for messages; without rows, why there are none.
    """

    rows: Sequence[dict[str, Any]]
    source: str


def why_none(run: SavedRun, task: TaskData, changed: bool) -> str | None:
    """Why there are no such examples, as far as can be told before a model loads.

    Args:
        run: finished.
        task: its data.
        changed: whether other data were given than the run's own.

    Returns:
        None where there may be some.
    """
    found: dict[str, Any] | None = run.result.get("validation")
    if task.validation and (changed or found is None or found["source"] == "validation"):
        if found is not None and found["trained_on"] and not changed:
            return f"the validation file is D_val, which was trained on: {ASK}"
        return None
    if changed:
        return f"the data given now have no validation file beside a test: {ASK}"
    if found is None:
        return f"the run kept no examples apart: {ASK}"
    if found["trained_on"]:
        return f"the run's D_val was trained on{_in_the_end(run)}: {ASK}"
    if run.held_share() is None or "digest" not in found:
        return f"the run does not say which examples it kept apart: {ASK}"
    return None


def untrained(run: SavedRun, task: TaskData, loaded: LoadedModel, changed: bool) -> Untrained:
    """Examples to draw the frontier of a run by.

    What ``method.hold_out`` kept out of the training data is found again by the run's seed, and
    known again by the checksum in its result.json: rows that only look the same may have been
    trained on.

    Args:
        run: finished.
        task: its data, training examples included where they are needed.
        loaded: the run's base model.
        changed: whether other data were given than the run's own.
    """
    if (why := why_none(run, task, changed)) is not None:
        return Untrained((), why)
    found: dict[str, Any] | None = run.result.get("validation")
    if task.validation and (changed or found is None or found["source"] == "validation"):
        rows = loaded.tokenise(task, task.validation)
        if found is not None and found["trained_on"] and digest(rows) == found.get("digest"):
            return Untrained((), f"the validation file is D_val, which was trained on: {ASK}")
        return Untrained(rows, "the validation file")
    share = run.held_share()
    assert found is not None
    assert share is not None
    classes = task.stratify(task.train)
    _, held = split(len(task.train), 1 - share, int(run.config.seed), classes)
    rows = loaded.tokenise(task, [task.train[i] for i in held])
    said = f"method.hold_out={share:g}"
    if digest(rows) != found["digest"]:
        return Untrained(
            (),
            f"the training data are not what they were when the run kept a part apart ({said}), "
            f"so that part cannot be found again: {ASK}",
        )
    return Untrained(rows, f"the training data, kept apart by {said}")


def _in_the_end(run: SavedRun) -> str:
    """How it came that D_val was trained on."""
    method = run.result.get("configuration", {}).get("method")
    passes = method.get("finish_epochs") if isinstance(method, dict) else None
    if not isinstance(passes, int | float) or not passes:
        return ", by its upper level"
    return f" in the end (method.finish_epochs={passes:g}; 0 does not)"
