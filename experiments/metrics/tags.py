"""Score tagged words: entities that are found with their exact bounds and type, by seqeval."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib import metadata

from bilevel.errors import UserError

__all__ = ["TAG_METRICS", "by_type", "check_installed", "settings"]

Tags = Sequence[Sequence[str]]


def f1(truth: Tags, found: Tags) -> float | None:
    """Micro F1 over entities, in [0, 1]; None where there is no entity to find."""
    from seqeval.metrics import f1_score  # here: other tasks do without the package

    return float(f1_score(truth, found, zero_division=0)) if _entities(truth) else None


def precision(truth: Tags, found: Tags) -> float | None:
    """Share of right ones among the entities found, 0 if none is found; None as in :func:`f1`."""
    from seqeval.metrics import precision_score

    return float(precision_score(truth, found, zero_division=0)) if _entities(truth) else None


def recall(truth: Tags, found: Tags) -> float | None:
    """Share of the entities that are found; None as in :func:`f1`."""
    from seqeval.metrics import recall_score

    return float(recall_score(truth, found, zero_division=0)) if _entities(truth) else None


def token_accuracy(truth: Tags, found: Tags) -> float:
    """Share of words with the right tag."""
    from seqeval.metrics import accuracy_score

    return float(accuracy_score(truth, found))


# Each takes the n sentences' right tags and those found, equally many for each sentence.
TAG_METRICS: dict[str, Callable[[Tags, Tags], float | None]] = {
    "f1": f1,
    "precision": precision,
    "recall": recall,
    "token_accuracy": token_accuracy,
}


def by_type(
    truth: Tags, found: Tags, types: Iterable[str]
) -> dict[str, dict[str, float | int | None]]:
    """Scores of each type of entity by itself.

    Args:
        truth: the right tags of n sentences.
        found: as many tags for each.
        types: of entities, without B- and I-.

    Returns:
        Type -> ``precision``, ``recall`` and ``f1`` in [0, 1], and ``support``, the number of its
        entities in ``truth``; the other three are None where that is 0.
    """
    from seqeval.metrics import classification_report

    table = {}
    if _entities(truth) or _entities(found):  # of none it makes no report
        table = classification_report(truth, found, output_dict=True, zero_division=0)
    scores: dict[str, dict[str, float | int | None]] = {}
    for name in types:
        row = table.get(name, {"support": 0})
        keys = {"precision": "precision", "recall": "recall", "f1": "f1-score"}
        known = row["support"] > 0
        scores[name] = {ours: float(row[key]) if known else None for ours, key in keys.items()}
        scores[name]["support"] = int(row["support"])
    return scores


def settings() -> dict[str, str]:
    """How each metric is computed: metric -> one line.

    Raises:
        UserError: as :func:`check_installed`.
    """
    check_installed()
    by = f"seqeval {metadata.version('seqeval')}"
    entities = (
        f"{by}: micro average over entities (type and both ends right), default mode (conlleval's: "
        "an I- without its B- begins an entity), IOB2 tags, words beyond task.max_length as O"
    )
    words = f"{by}: share of words with the right tag, words beyond task.max_length as O"
    return {name: words if name == "token_accuracy" else entities for name in TAG_METRICS}


def check_installed() -> None:
    """Raise UserError, naming the extra that holds it, where seqeval is missing."""
    try:
        metadata.version("seqeval")
    except metadata.PackageNotFoundError:
        raise UserError(
            "tagging tasks are scored by the package seqeval: pip install '.[text]'"
        ) from None


def _entities(tags: Tags) -> bool:
    return any(tag != "O" for sentence in tags for tag in sentence)
