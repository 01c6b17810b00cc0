"""Tell runs of one task apart that had different data: other classes, or other kinds of answer.

`classification` and the like are tasks of anybody's files, and a film's stars and a ticket's topic
do not belong into one table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["by_data"]

LETTERS = 40  # of the labels' names in a title


def by_data(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The runs, with the answers behind the name of a task where runs of it have different ones.

    Args:
        results: result.json of each. The order of labels is no difference, and a run of a version
            that did not say keeps the task's name.
    """
    found: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for r in results:
        answers, seen = _answers(r), found.setdefault(r["task"], [])
        if r.get("kind") and answers not in seen:
            seen.append(answers)
    return [
        {**r, "task": _told(r["task"], _answers(r), found[r["task"]])}
        if r.get("kind") and len(found[r["task"]]) > 1
        else dict(r)
        for r in results
    ]


def _answers(r: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    return str(r.get("kind") or ""), tuple(sorted(r.get("labels") or ()))


def _told(
    task: str, answers: tuple[str, tuple[str, ...]], seen: list[tuple[str, tuple[str, ...]]]
) -> str:
    kind, labels = answers
    words = _shortened(kind, labels)
    if sum(_shortened(*other) == words for other in seen) > 1:
        words += f", {seen.index(answers) + 1}"
    return f"{task} ({words})"


def _shortened(kind: str, labels: tuple[str, ...]) -> str:
    text = ", ".join(labels) or kind or "not said"
    return text if len(text) <= LETTERS else f"{text[: LETTERS - 3]}..."
