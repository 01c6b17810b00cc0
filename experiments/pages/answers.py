"""Put predictions into the tables and lists of a run's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.answers import NUMBER, SPANS, TAGS
from experiments.metrics import spans
from experiments.pages import grids, predictions
from experiments.pages.grids import Cell, Column, Grid

__all__ = ["cut", "shown"]

LONGEST = 1200  # letters of a text; the rest is cut


def shown(found: predictions.Predictions | None, values: Mapping[str, Any]) -> dict[str, Any]:
    """Tables and lists of predictions, by their names in the template; empty ones without any.

    Args:
        found: what is shown of the predictions.
        values: result.json.
    """
    nothing: dict[str, Any] = dict.fromkeys(("confusion", "pairs", "shares"))
    if found is None:
        return {**nothing, "worst": [], "worst_numbers": None, "samples": []}
    if found.confusion:
        title = "Right classes (rows) and what was said (columns); a colour is a share of its row"
        nothing["confusion"] = grids.matrix(title, found.names, found.confusion)
    if found.pairs:
        columns = [Column("right"), Column("said"), Column("examples", True)]
        rows = [[Cell(right), Cell(said), grids.number(n)] for right, said, n in found.pairs]
        nothing["pairs"] = Grid("Classes that are confused most often", columns, rows)
    if found.shares:
        what = "type of entity" if found.kind == TAGS else "label"
        columns = [
            Column(what),
            *(Column(n, True) for n in ("support", "precision", "recall", "F1")),
        ]
        rows = [
            [Cell(s.name), grids.number(s.support)]
            + [grids.number(score) for score in (s.precision, s.recall, s.f1)]
            for s in found.shares
        ]
        nothing["shares"] = Grid(f"Each {what} by itself", columns, rows)
    worst = [_worst(row, found.kind, values) for row in found.worst]
    shown = [row for row in worst if row["texts"] or row["words"]]
    return {
        **nothing,
        "worst": shown,
        "worst_numbers": _without_texts(worst) if worst and not shown else None,
        "samples": [_sample(row) for row in found.samples],
    }


def _worst(row: Mapping[str, Any], kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A prediction as the page shows it: its words or texts, and the facts about it."""
    test = [] if row["test"] == "test" else [("test", row["test"])]
    if kind == TAGS:
        words = list(zip(row["words"], row["tags"], row["prediction"], strict=True))
        wrong = sum(right != said for _, right, said in words)
        return {"words": words, "texts": [], "facts": [("words tagged otherwise", wrong), *test]}
    texts = [cut(text) for text in row.get("texts", ())]
    right = _answers(row["answers"]) if kind == SPANS else row["label"]
    said = _answers([row["prediction"]]) if kind == SPANS else row["prediction"]
    facts: list[tuple[str, Any]] = [("right", _said_so(right)), ("said", _said_so(said))]
    if kind == SPANS:
        texts = texts or [cut(row["question"])]
        facts.append(("F1", f"{spans.f1(row['prediction'], row['answers']):.2f}"))
        facts.append(("probability", f"{row['probability']:.4f}"))
        return {"words": [], "texts": texts, "facts": [*facts, ("example", row["index"]), *test]}
    if kind == NUMBER:
        facts.append(("apart", f"{abs(row['prediction'] - row['label']):.4g}"))
    else:
        names = list(values["labels"])
        for name in dict.fromkeys([*_list(row["label"]), *_list(row["prediction"])]):
            facts.append((f"p({name})", f"{row['probabilities'][names.index(name)]:.4f}"))
    return {"words": [], "texts": texts, "facts": [*facts, ("example", row["index"]), *test]}


def _answers(texts: Sequence[str]) -> str:
    """Answers in a text, which may have none."""
    return " | ".join(dict.fromkeys(filter(None, texts))) or "no answer"


def _without_texts(worst: Sequence[Mapping[str, Any]]) -> Grid:
    """The facts alone, a row an example; probabilities of other classes have no column."""
    names = [name for name, _ in worst[0]["facts"] if not name.startswith("p(")]
    columns = [Column(name, name not in ("right", "said", "test")) for name in names]
    rows = [[Cell(str(dict(row["facts"])[name])) for name in names] for row in worst]
    probable = [[str(v) for name, v in row["facts"] if name.startswith("p(")] for row in worst]
    if all(probable):
        columns.append(Column("p of the right one", True))
        rows = [[*row, Cell(found[0])] for row, found in zip(rows, probable, strict=True)]
    return Grid("The worst first", columns, rows)


def _list(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _said_so(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(_list(value)) or "no label"


def _sample(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    references = row.get("references") or [row["target"]]
    parts = [("source", row["source"]), ("written", row["prediction"])]
    parts += [("reference", text) for text in references[:3]]
    return [(name, cut(text)) for name, text in parts]


def cut(text: str) -> str:
    """The beginning of a text that is too long to be read."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
