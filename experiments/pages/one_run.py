"""Make the page of one finished run."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments import figures
from experiments.config import stored
from experiments.pages import grids, page, predictions
from experiments.pages.answers import cut, shown
from experiments.pages.drawings import drawn
from experiments.pages.grids import Cell, Column, Grid, Heat
from experiments.plots import residuals, scores
from experiments.plots.records import Record, run_name
from experiments.results import record

__all__ = ["html"]

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


def html(
    folder: Path,
    result: Mapping[str, Any],
    out: Path,
    interval: tuple[float, float] | None = None,
    records: list[Record] | None = None,
) -> str:
    """Make the page.

    Args:
        folder: of the run.
        result: its result.json.
        out: the file that the page is to be, for its links.
        interval: of the primary metric over test examples, 95 %; None where it is not known.
        records: the lines of its metrics.jsonl; None to read them.

    Raises:
        UserError: a file of the run is damaged.
    """
    values = dict(result)
    records = figures.read_metrics(folder) if records is None else records
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
            "tiles": _tiles(values, interval),
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
            **shown(answers, values),
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


def _tiles(values: Mapping[str, Any], interval: tuple[float, float] | None) -> list[dict[str, str]]:
    metric = values["primary_metric"]
    validation = values.get("validation")
    sure = "" if interval is None else f"95 %: {interval[0]:.4g} to {interval[1]:.4g}"
    note = ", ".join(filter(None, (sure, _sizes(values))))
    tiles = [(f"test {metric}", record.shown(values["metrics"][metric]), note)]
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
    rows = [[Cell(key), Cell(cut(text))] for key, text in grids.flat(values.get("configuration"))]
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
