"""The page of one finished run."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import figures
from experiments.answers import NUMBER, TAGS
from experiments.config import stored
from experiments.pages import grids, page, predictions
from experiments.pages.drawings import drawn
from experiments.pages.grids import Cell, Column, Grid, Heat
from experiments.plots import residuals, scores
from experiments.plots.records import run_name
from experiments.results import record

__all__ = ["html"]

LONGEST = 1200  # letters of a text; the rest is cut
OF_RANKS = ("gates", "values", "density", "frontier")
# What a run's folder may hold -> what that is; in this order.
FILES = {
    "adapter": "the adapter, one rank for all layers",
    "adapter_compact": "the same adapter at its true ranks",
    "model": "the fine-tuned model",
    "base": "the weights that the adapter belongs to",
    "result.json": "scores, losses, ranks, cost",
    "metrics.jsonl": "what was measured over the steps",
    "predictions.jsonl": "what the model says of each test example",
    "wrongest.jsonl": "the predictions that are most wrong, with their texts",
    "ranks.json": "parts of the adapter against their loss",
    "figures": "the figures as PNG",
    ".hydra/config.yaml": "the configuration, as Hydra writes it",
    "run.log": "what the run said",
}


def html(folder: Path, result: Mapping[str, Any], out: Path) -> str:
    """Make the page.

    Args:
        folder: of the run.
        result: its result.json.
        out: the file that the page is to be, for its links.

    Raises:
        UserError: a file of the run is damaged.
    """
    values = dict(result)
    records = figures.read_metrics(folder)
    drawings = figures.drawings(folder, values, records)
    drawings = {Path(name).stem: draw for name, draw in drawings.items()}
    del drawings["ranks"]  # a table here
    losses = drawings.pop("losses")
    of_ranks = {name: drawings.pop(name) for name in OF_RANKS if name in drawings}
    title = run_name(values)
    answers = predictions.read(folder, values)
    numbers = None if answers is None else answers.numbers
    ranks = values["ranks"]
    parts = [
        ("scores", "Scores", True),
        ("ranks", "Ranks", bool(ranks)),
        ("predictions", "Predictions", answers is not None),
    ]
    more = drawn(drawings, title)
    parts += [("more", "More figures", bool(more)), ("how", "How it was made", True)]
    return page.render(
        "run.html",
        {
            "title": f"{values['method']} on {values['task']}",
            "under": f"model {values['model']}, seed {values['seed']}",
            "parts": [(id, name) for id, name, there in parts if there],
            "tiles": _tiles(values),
            "said": _said(values),
            "scores": _scores(values),
            "over_steps": drawn(
                {
                    "losses": losses,
                    "scores": lambda path: scores.draw(records, values, path),
                },
                title,
            ),
            "ranks": _rank_map(ranks),
            "ranks_said": _ranks_said(values),
            "of_ranks": drawn(of_ranks, title),
            "answers": answers,
            **_answers(answers, values),
            "of_answers": []
            if numbers is None
            else drawn({"residuals": lambda path: residuals.draw(numbers, values, path)}, title),
            "more": more,
            "command": _command(folder),
            "cost": _cost(values),
            "configuration": _configuration(values),
            "files": _files(folder, out),
        },
    )


def _tiles(values: Mapping[str, Any]) -> list[dict[str, str]]:
    metric = values["primary_metric"]
    validation = values.get("validation")
    tiles = [(f"test {metric}", record.shown(values["metrics"][metric]), _sizes(values))]
    if validation is not None:
        score = (validation.get("metrics") or {}).get(metric)
        trained = "trained on too" if validation["trained_on"] else "what is chosen by"
        if score is not None:
            tiles.append((f"validation {metric}", record.shown(score), trained))
    beside = values.get("beside_probe")
    if beside is not None:
        on = "a linear map on the frozen model"
        tiles.append(("linear probe", record.shown(beside["other"]), on))
    gap = record.gap(values)
    over = "" if gap is None else f"{gap:+.4f} against training"
    tiles.append(("test loss", record.shown(values["test_loss"]), over))
    ranks = values["ranks"]
    mean = f"mean rank {statistics.fmean(ranks.values()):.2f}" if ranks else ""
    tiles.append(("saved parameters", f"{values['adapter_parameters']:,}", mean))
    seconds = sum(values["seconds"].values())
    processor = _time(sum(values["processor_seconds"].values()))
    tiles.append(("time", _time(seconds), f"{processor} of the processor"))
    return [{"what": what, "value": value, "note": note} for what, value, note in tiles]


def _sizes(values: Mapping[str, Any]) -> str:
    found = {k: n for k, n in (values.get("data") or {}).items() if k.startswith("test")}
    return f"{sum(found.values()):,} examples" if found else ""


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 6000:
        return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"


def _said(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The verdicts on the run with what to change, and then what it warns of."""
    judged = [(one["words"], one["advice"]) for one in values.get("verdict") or ()]
    return [*judged, *((str(words), "") for words in values.get("warnings") or ())]


def _rank_map(ranks: Mapping[str, int] | None) -> Heat | None:
    """A table by layer; None where all are alike."""
    if not ranks or len(set(ranks.values())) == 1:
        return None
    return grids.of_ranks("The rank of each module; columns are layers", {"": ranks})[0]


def _ranks_said(values: Mapping[str, Any]) -> list[str]:
    ranks = values["ranks"]
    if not ranks:
        return []
    found = list(ranks.values())
    said = [f"Ranks {min(found)} to {max(found)} in {len(found)} modules, {sum(found):,} in all."]
    if len(set(found)) == 1:
        said = [f"Rank {found[0]} in {'each of ' * (len(found) > 1)}{len(found)} modules."]
    decided = values.get("decided")
    return [*said, decided["words"]] if decided else said


def _scores(values: Mapping[str, Any]) -> Grid:
    validation = values.get("validation") or {}
    rows = [
        [Cell(name), grids.number(score), grids.number((validation.get("metrics") or {}).get(name))]
        for name, score in values["metrics"].items()
    ]
    loss = [grids.number(values["test_loss"]), grids.number(values["validation_loss"])]
    rows.append([Cell("loss"), *loss])
    for row, train in zip(rows, [None] * (len(rows) - 1) + [values["train_loss"]], strict=True):
        row.append(grids.number(train))
    columns = [Column("score"), *(Column(name, True) for name in ("test", "validation", "train"))]
    return grids.without_empty(Grid("Scores of the model as it was saved", columns, rows))


def _answers(found: predictions.Predictions | None, values: Mapping[str, Any]) -> dict[str, Any]:
    """Tables and lists of predictions; nothing without any."""
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
    texts = [_cut(text) for text in row.get("texts", ())]
    facts: list[tuple[str, Any]] = [
        ("right", _said_so(row["label"])),
        ("said", _said_so(row["prediction"])),
    ]
    if kind == NUMBER:
        facts.append(("apart", f"{abs(row['prediction'] - row['label']):.4g}"))
    else:
        names = list(values["labels"])
        for name in dict.fromkeys([*_list(row["label"]), *_list(row["prediction"])]):
            facts.append((f"p({name})", f"{row['probabilities'][names.index(name)]:.4f}"))
    return {"words": [], "texts": texts, "facts": [*facts, ("example", row["index"]), *test]}


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
    return [(name, _cut(text)) for name, text in parts]


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def _command(folder: Path) -> str:
    """What was typed; empty where the run does not say."""
    if not (folder / ".hydra" / "overrides.yaml").is_file():
        return ""
    return "python -m experiments.run " + shlex.join(stored.words(folder))


def _cost(values: Mapping[str, Any]) -> Grid:
    processor = values["processor_seconds"]
    steps = (values.get("engine") or {}).get("steps", {})
    rows = [
        [
            Cell(stage),
            grids.number(steps.get(stage)),
            grids.number(seconds, 1),
            grids.number(processor.get(stage), 1),
        ]
        for stage, seconds in values["seconds"].items()
    ]
    names = ("steps", "seconds", "processor seconds")
    title = f"Stages; peak memory {values['peak_memory_mib']:,.0f} MiB"
    return Grid(title, [Column("stage"), *(Column(name, True) for name in names)], rows)


def _configuration(values: Mapping[str, Any]) -> Grid:
    rows = [[Cell(key), Cell(_cut(text))] for key, text in grids.flat(values.get("configuration"))]
    rows += [
        [Cell(f"version of {name}"), Cell(str(version))]
        for name, version in (values.get("versions") or {}).items()
    ]
    return Grid("Options and versions", [Column("option"), Column("value")], rows)


def _files(folder: Path, out: Path) -> Grid:
    there = {name: words for name, words in FILES.items() if (folder / name).exists()}
    rows = [[Cell("./", link=page.link(folder, out)), Cell("the folder of the run")]]
    rows += [
        [Cell(name, link=page.link(folder / name, out)), Cell(words)]
        for name, words in there.items()
    ]
    return Grid("Relative to this page", [Column("file"), Column("what it is")], rows)
