"""Find the examples that a finished run's weights never trained on, its test set aside."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bilevel.data import split
from experiments.training import trained_rows
from experiments.training.trained_rows import held_share
from experiments.training.watched import digest
from problems.common.same_examples import unseen

if TYPE_CHECKING:
    from experiments.models.pretrained import LoadedModel
    from experiments.results.finished_run import SavedRun
    from experiments.tasks.task import TaskData


__all__ = ["Untrained", "untrained", "why_none"]

log = logging.getLogger(__name__)

TRUSTED = ("trusted", "trusted_file")  # options of tasks whose validation split is no such file

ASK = (
    "train with method=lora method.hold_out=0.2, which keeps a part of the training data, or give "
    "the task a file validation beside its test file"
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
        changed: whether the data were given anew: others, or its own in another place.

    Returns:
        None where there may be some.
    """
    found: dict[str, Any] | None = run.result.get("validation")
    if changed:
        if task.validation or (task.train and _kept_apart(run)):
            return None
        return f"the data given now have no validation file beside a test: {ASK}"
    if task.validation and (found is None or found["source"] == "validation"):
        given = any(run.config.task.get(name) is not None for name in TRUSTED)
        # that file is D_val now because a test file came later
        if run.result.get("test_source") == "validation" and not given:
            return f"the validation file is what the run was tested on, and must not choose: {ASK}"
        if found is not None and found["trained_on"]:
            return f"the validation file is D_val, which was trained on: {ASK}"
        return None
    if found is None:
        return f"the run kept no examples apart: {ASK}"
    if found["trained_on"]:
        return f"the run's D_val was trained on{_in_the_end(run)}: {ASK}"
    if not _kept_apart(run):
        return f"the run does not say which examples it kept apart: {ASK}"
    return None


def untrained(run: SavedRun, task: TaskData, loaded: LoadedModel, changed: bool) -> Untrained:
    """Examples to draw the frontier of a run by.

    What ``method.hold_out`` kept out of the training data is found again by the run's seed, and
    known again by the checksum in its result.json, wherever the data lie now: rows that only look
    the same may have been trained on. Of other data it is the validation file, without the examples
    that the run trained on.

    Args:
        run: finished.
        task: its data, training examples included where they are needed.
        loaded: the run's base model.
        changed: whether the data were given anew: others, or its own in another place.

    Raises:
        UserError: the run's record of what it trained on is damaged.
    """
    if (why := why_none(run, task, changed)) is not None:
        return Untrained((), why)
    said = f"method.hold_out={held_share(run.result):g}" if _kept_apart(run) else ""
    if said and task.train:
        rows = _again(run, task, loaded)
        if rows is not None:
            return _new(run, rows, f"the training data, kept apart by {said}", changed)
        if not (changed and task.validation):
            return Untrained(
                (),
                f"the training data are not what they were when the run kept a part apart ({said}),"
                f" so that part cannot be found again: {ASK}",
            )
    rows = loaded.tokenise(task, task.validation or ())
    return _new(run, rows, "the validation file", changed)


def _kept_apart(run: SavedRun) -> bool:
    """Whether a part of the training data was kept out of all training, to be known again."""
    found: dict[str, Any] | None = run.result.get("validation")
    if found is None or found["source"] != "training" or found["trained_on"]:
        return False
    return held_share(run.result) is not None and "digest" in found


def _again(run: SavedRun, task: TaskData, loaded: LoadedModel) -> list[dict[str, Any]] | None:
    """The part that was kept apart; None where these are not the data that it was a part of."""
    share = held_share(run.result)
    assert share is not None
    classes = task.stratify(task.train)
    _, held = split(len(task.train), 1 - share, int(run.config.seed), classes)
    rows = loaded.tokenise(task, [task.train[i] for i in held])
    return rows if digest(rows) == run.result["validation"]["digest"] else None


def _new(run: SavedRun, rows: list[dict[str, Any]], source: str, changed: bool) -> Untrained:
    """Of examples that were kept apart, or are given anew, what was not trained on.

    Rows that stand twice in the data, or in both files, may be on both sides.
    """
    found: dict[str, Any] | None = run.result.get("validation")
    known = trained_rows.read(run.folder)
    if known is None:  # an older run, which knows its D_val as a whole
        if not changed:
            return Untrained(rows, source)
        if found is not None and found["trained_on"] and digest(rows) == found.get("digest"):
            return Untrained((), f"the validation file is D_val, which was trained on: {ASK}")
        log.warning(
            "run=%s does not say which examples it trained on, as older runs do not: those of the "
            "validation file given now are taken for others",
            run.folder,
        )
        return Untrained(rows, source)
    new = unseen(rows, known)
    if len(new) == len(rows):
        return Untrained(rows, source)
    if not new:
        return Untrained(
            (),
            f"all {len(rows)} examples of {source} read like ones that the run trained on, token "
            "for token, and so cannot tell what it lost: give others as the file validation",
        )
    dropped = len(rows) - len(new)
    log.warning(
        "the run trained on %d of the %d examples of %s: they are left out",
        *(dropped, len(rows), source),
    )
    return Untrained(new, f"{source}, but for {dropped} that the run trained on")


def _in_the_end(run: SavedRun) -> str:
    """How it came that D_val was trained on."""
    method = run.result.get("configuration", {}).get("method")
    passes = method.get("finish_epochs") if isinstance(method, dict) else None
    if isinstance(passes, int | float) and passes:
        return f" in the end (method.finish_epochs={passes:g}; 0 does not)"
    engine = run.result.get("engine") or {"T1": 1}  # older runs do not say
    if held_share(run.result) is not None or engine.get("T1") is None:
        return " in the end, with all of the training data"
    return ", by its upper level"
