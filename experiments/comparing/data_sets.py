"""Tell runs of one task apart that had different data: answers, a test set or training examples.

`classification` and the like are tasks of anybody's files, and a film's stars and a ticket's topic
do not belong into one table; nor do two test sets that are called alike. Where files lie tells
nothing by itself, since they may be copied: what their examples say does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.comparing.options import PLACE, flat

__all__ = ["by_data", "other_training"]

LETTERS = 40  # of the labels' names in a title
TRAINING = ("train", "validation", "sources")  # among the digests; the others are of test sets

Answered = tuple[str, tuple[str, ...], str]


def by_data(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The runs, with their data behind the name of a task where runs of it have different ones.

    Answers are told by their names, test sets of the same answers by their folder.

    Args:
        results: result.json of each. The order of labels is no difference, and a run of a version
            that did not say keeps the task's name.
    """
    tested = _told(results, _tests, lambda r: (r["task"], *_answers(r)))
    found: dict[str, list[Answered]] = {}
    every = [(*_answers(r), words) for r, words in zip(results, tested, strict=True)]
    for r, answers in zip(results, every, strict=True):
        seen = found.setdefault(r["task"], [])
        if r.get("kind") and answers not in seen:
            seen.append(answers)
    return [
        {**r, "task": _title(r["task"], answers, found[r["task"]])}
        if r.get("kind") and len(found[r["task"]]) > 1
        else dict(r)
        for r, answers in zip(results, every, strict=True)
    ]


def other_training(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """What tells the training data of each run from those of the others; "" where nothing does.

    Args:
        results: result.json of runs that are the same in all else but their seed.
    """
    folders = _told(results, _training, lambda r: ())
    return [f"{PLACE}={folder}" if folder else "" for folder in folders]


def _told(
    results: Sequence[Mapping[str, Any]],
    digest: Callable[[Mapping[str, Any]], str | None],
    group: Callable[[Mapping[str, Any]], tuple[Any, ...]],
) -> list[str]:
    """The folder of each run's data where runs of one seed that ask for the same have others.

    Data that are given in memory may be drawn anew for every seed, and tell nothing; so do folders
    of which each seed has one.

    Args:
        results: result.json of each.
        digest: of a run's data; None where it is not known.
        group: what runs must have in common to be compared.
    """
    asked: dict[tuple[Any, ...], dict[str, str]] = {}  # digest -> the folder it was first seen in
    seeds: dict[tuple[Any, ...], dict[int, set[str]]] = {}
    for r in results:
        key = (*group(r), json.dumps(flat(_task(r)), sort_keys=True))
        if (found := digest(r)) is not None and (folder := _folder(r)):
            asked.setdefault(key, {}).setdefault(found, folder)
            seeds.setdefault(key, {}).setdefault(r["seed"], set()).add(found)
    names: dict[tuple[Any, ...], dict[str, str]] = {}  # group -> digest, or folder -> its name
    for key, digests in asked.items():
        if all(len(own) == 1 for own in seeds[key].values()):
            continue  # one set of data, or one a seed, as the folds of a cross-validation
        own = names.setdefault(key[:-1], {})
        before: list[str] = []
        for found, folder in digests.items():
            number = before.count(folder) + 1  # it may have been changed in place
            own[found] = folder if number == 1 else f"{folder}, {number}"
            own[folder] = folder
            before.append(folder)
    # another part of such a folder, as by task.max_test, is of that folder
    return [
        own.get(digest(r) or "", own.get(_folder(r), ""))
        for r in results
        for own in (names.get(group(r), {}),)
    ]


def _task(r: Mapping[str, Any]) -> Mapping[str, Any]:
    task = (r.get("configuration") or {}).get("task")
    return task if isinstance(task, Mapping) else {}


def _folder(r: Mapping[str, Any]) -> str:
    return str(_task(r).get("data_dir") or "")


def _tests(r: Mapping[str, Any]) -> str | None:
    return _digest(r, lambda name: name not in TRAINING)


def _training(r: Mapping[str, Any]) -> str | None:
    return _digest(r, lambda name: name in TRAINING)


def _digest(r: Mapping[str, Any], wanted: Callable[[str], bool]) -> str | None:
    found = sorted((k, v) for k, v in (r.get("data_digests") or {}).items() if wanted(k))
    return json.dumps(found) if found else None


def _answers(r: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    return str(r.get("kind") or ""), tuple(sorted(r.get("labels") or ()))


def _title(task: str, answers: Answered, seen: Sequence[Answered]) -> str:
    words = _shortened(answers)
    if sum(_shortened(other) == words for other in seen) > 1:
        words += f", {seen.index(answers) + 1}"
    return f"{task} ({words})"


def _shortened(answers: Answered) -> str:
    kind, labels, place = answers
    text = ", ".join(labels) or kind or "not said"
    text = text if len(text) <= LETTERS else f"{text[: LETTERS - 3]}..."
    if not place:
        return text
    return f"{text}, {place if len(place) <= LETTERS else f'...{place[3 - LETTERS :]}'}"
