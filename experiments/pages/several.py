"""Make the page of several runs: compared, side by side, and with links to each."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import figures
from experiments.comparing import wording
from experiments.comparing.comparison import Comparison
from experiments.comparing.variants import one_a_seed
from experiments.pages import compared, grids, page
from experiments.pages.drawings import drawn
from experiments.pages.grids import Cell, Column, Grid, Heat
from experiments.plots.records import method_name
from experiments.results import record
from experiments.verdicts import verdict

__all__ = ["Unread", "html"]

OVER_STEPS = ("losses_compared", "orthogonality_compared", "density_compared")
COMPARED = ("comparison", "pareto")
MOST_RANKS = 40  # runs in a table of ranks: more are in the runs' own pages


@dataclass(frozen=True)
class Unread:
    """A folder that is not in the page, and why."""

    folder: Path
    reason: str


def html(
    results: Sequence[dict[str, Any]],
    runs: Sequence[figures.Run],
    comparisons: Sequence[Comparison],
    agreement: Sequence[str],
    unread: Sequence[Unread],
    out: Path,
    pages: Mapping[str, Path],
) -> str:
    """Make the page.

    Args:
        results: result.json of each run, with its ``variant`` and ``folder``; one without a folder
            is no run of its own (a grid search's best).
        runs: those of them with lines of metrics.jsonl, of :func:`.figures.with_records`.
        comparisons: of their methods, one a task and model.
        agreement: how far the ranks of seeds agree, in sentences.
        unread: runs that failed, or that cannot be read.
        out: the file that the page is to be, for its links.
        pages: folder of a run -> its own page, where it has one.
    """
    settings = sorted({(r["task"], r["model"]) for r in results})
    title = "; ".join(f"{task}, {model}" for task, model in settings)
    counted = one_a_seed(results)
    drawings = figures.drawings_of_several(counted, runs, comparisons)
    drawings = {
        Path(name).stem: draw for name, draw in drawings.items() if not name.startswith("ranks_")
    }
    side_by_side = {name: drawings.pop(name) for name in COMPARED}
    over_steps = {name: drawings.pop(name) for name in OVER_STEPS}
    steps, more = drawn(over_steps, title), drawn(drawings, title)
    ranks = _ranks(counted)
    own = [r for r in results if r.get("folder") and not r.get("of_grid")]
    parts = [
        ("comparison", "Comparison", True),
        ("steps", "Over the steps", bool(steps)),
        ("ranks", "Ranks", bool(ranks or agreement)),
        ("more", "More figures", bool(more)),
        ("runs", "Runs", True),
    ]
    return page.render(
        "runs.html",
        {
            "title": f"{len(own)} runs" if len(own) > 1 else "One run",
            "under": title,
            "parts": [(id, name) for id, name, there in parts if there],
            "said": [(line, "") for line in _said(counted, unread)],
            "verdicts": _conclusions(comparisons),
            "comparison": [grid for one in comparisons for grid in compared.tables(one)],
            "legend": compared.LEGEND,
            "notes": list(dict.fromkeys(note for one in comparisons for note in one.notes)),
            "compared": drawn(side_by_side, title),
            "over_steps": steps,
            "agreement": agreement,
            "ranks": ranks,
            "more": more,
            "runs": _runs(own, out, pages),
        },
    )


def _said(results: Sequence[Mapping[str, Any]], unread: Sequence[Unread]) -> list[str]:
    """What is not in the page, and the verdicts on what is."""
    return [*(f"{one.folder}: {one.reason}" for one in unread), *verdict.of_runs(results)]


def _conclusions(comparisons: Sequence[Comparison]) -> list[str]:
    """What is shown and what is not, a sentence a task and model."""
    several = len(comparisons) > 1
    found = []
    for one in comparisons:
        said = wording.conclusion(one)
        if said:
            found.append(f"{one.task} with {one.model}: {said}" if several else said)
    return found


def _ranks(results: Sequence[Mapping[str, Any]]) -> list[Heat]:
    """Tables of the ranks of all runs that chose some: a row a run, a column a layer."""
    found: list[Heat] = []
    for task, model in sorted({(r["task"], r["model"]) for r in results}):
        here = {
            f"{method_name(dict(r))}, seed {r['seed']}": r["ranks"]
            for r in sorted(results, key=lambda r: (method_name(dict(r)), r["seed"]))
            if (r["task"], r["model"]) == (task, model)
            and len(set((r["ranks"] or {}).values())) > 1
        }
        if 1 < len(here) <= MOST_RANKS:
            found += grids.of_ranks(f"Ranks on {task}, {model}", here)
    return found


def _runs(runs: Sequence[Mapping[str, Any]], out: Path, pages: Mapping[str, Path]) -> Grid:
    columns = [
        *(Column(name) for name in ("run", "method", "variant", "task", "model")),
        *(Column(name, True) for name in ("seed", "score", "validation", "test loss", "gap")),
        *(Column(name, True) for name in ("parameters", "mean rank", "seconds")),
        Column("verdict"),
        Column("folder"),
    ]
    if len({(r["task"], r["model"]) for r in runs}) == 1:
        columns = [column for column in columns if column.name not in ("task", "model")]
    rows = []
    for r in runs:
        folder, own = Path(r["folder"]), pages.get(r["folder"])
        validation = ((r.get("validation") or {}).get("metrics") or {}).get(r["primary_metric"])
        cells = {
            "run": Cell("page", link=page.link(own, out)) if own else Cell(""),
            **{name: Cell(str(r[name])) for name in ("method", "task", "model")},
            "variant": Cell(r.get("variant", "")),
            "seed": Cell(str(r["seed"]), r["seed"]),
            "score": grids.number(r["metrics"][r["primary_metric"]]),
            "validation": grids.number(validation),
            "test loss": grids.number(r["test_loss"]),
            "gap": grids.number(record.gap(r)),
            "parameters": grids.number(r["adapter_parameters"]),
            "mean rank": grids.number(
                statistics.fmean(r["ranks"].values()) if r["ranks"] else None, 2
            ),
            "seconds": grids.number(sum(r["seconds"].values()), 1),
            "verdict": Cell(", ".join(one["about"] for one in r.get("verdict") or ())),
            "folder": Cell(folder.name, link=page.link(folder, out)),
        }
        rows.append([cells[column.name] for column in columns])
    metrics = sorted({r["primary_metric"] for r in runs})
    title = f"Every run; the score is {', '.join(metrics)} on the test"
    return grids.without_empty(Grid(title, columns, rows))
