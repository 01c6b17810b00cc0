"""Score ways to find ranks on planted problems: criteria on one LoRA run, and other methods.

    python -m benchmarks.planted_ranks --out FILE.csv [--criteria singular,activation] DIR ...

Every DIR holds the runs of one problem in folders whose names say what they are: ``lora`` (rank 8,
with examples held out or a clean validation split), which is cut by each criterion: at the number
of components that is right (``told``), and where the frontier says, with one and two standard
errors to spare (``chosen 1``, ``chosen 2``); and other methods' runs, at the ranks they found, with
``lora`` as it is, by whose processor time theirs is to be divided. A line each: rank correlation,
exact hits and so on against the true ranks, which for unequal problems are those that the loss
would choose at the same total (:mod:`experiments.models.planted_removal`); test loss; processor
seconds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.lines import measure
from benchmarks.rank_evidence import choices, scoring
from bilevel.cutting import Budget, Criterion, cut
from bilevel.cutting.held_out import halves
from bilevel.cutting.ranking import masked
from experiments.cli.command_line import CommandLine
from experiments.metrics.ranks import linear_costs, recovery
from experiments.results import record
from experiments.results.finished_run import SavedRun
from experiments.tasks.kinds.planted_data import PlantedData
from experiments.training.scoring import example_losses
from experiments.training.trained_adapter import Trained, of_run

CUT = "lora"
EXAMPLES = 512
FIELDS = (
    *("setting", "problem", "what", "total", "components", "true_components", "spearman", "exact"),
    *("exact_by_chance", "mean_absolute_error", "test_loss", "accuracy", "run_seconds"),
    *("criterion_seconds", "frontier_seconds", "ranks", "true_ranks"),
)


def truth(task: PlantedData, total: int) -> dict[str, int]:
    """The right ranks at a total: the planted ones where all singular values count alike."""
    assert task.planted is not None
    planted = task.true_ranks or {}
    equal = task.planted.decay == 1 and task.planted.rescale == 1
    return dict(planted) if equal else task.removal.ranks(total)


def lines(folder: Path, criteria: list[Criterion], done: set[str]) -> Iterator[dict[str, Any]]:
    """What is to be said of one problem."""
    run = SavedRun.open(str(folder / CUT), CommandLine.parse([]), [])
    trained = of_run(run, [])
    task = trained.task
    assert isinstance(task, PlantedData)
    assert task.planted is not None
    true = task.true_ranks or {}
    costs = linear_costs(trained.model.get_base_model(), list(true))
    here = {"setting": task.name, "problem": task.planted.seed}

    def scored(what: str, total: str, ranks: dict[str, int], **more: Any) -> dict[str, Any]:
        right = truth(task, sum(ranks.values()))
        found = recovery(right, ranks, costs)
        keys = ("spearman", "exact", "exact_by_chance", "mean_absolute_error")
        sizes = {"components": sum(ranks.values()), "true_components": sum(true.values())}
        as_text = {
            "ranks": " ".join(str(ranks.get(name, 0)) for name in true),
            "true_ranks": " ".join(str(right.get(name, 0)) for name in true),
        }
        return {
            **{**here, "what": what, "total": total, **sizes, **as_text},
            **{key: found[key] for key in keys},
            **more,
        }

    for criterion in criteria:
        if criterion.name in done:
            continue
        yield from _cuts(trained, task, criterion, scored, _seconds(run.result))
    for path in sorted(folder.iterdir()):
        values = record.read(path)
        if values is None or path.name in done or not values["ranks"]:
            continue
        yield scored(
            path.name,
            "its own",
            values["ranks"],
            test_loss=values["test_loss"],
            accuracy=values["metrics"]["accuracy"],
            run_seconds=_seconds(values),
        )


def _cuts(
    trained: Trained, task: PlantedData, criterion: Criterion, scored: Any, run_seconds: float
) -> Iterator[dict[str, Any]]:
    rows, drawing = halves(trained.held_out.rows, EXAMPLES, criterion)
    tests = [r for rows in task.tests.values() for r in trained.loaded.tokenise(task, rows)]
    collate = task.collator(trained.loaded.tokenizer)
    started = time.process_time()
    data = scoring(trained, rows) if rows else None
    ranking = cut(trained.model, criterion, budget=Budget(budget=0.5), scoring=data).ranking
    criterion_seconds = time.process_time() - started
    started = time.process_time()
    drawn = choices(trained, ranking, drawing)
    frontier_seconds = time.process_time() - started
    sizes = {"told": sum((task.true_ranks or {}).values())}
    sizes |= {f"chosen {f.errors:g}": f.chosen for f in drawn if f.chosen is not None}
    for said, size in sizes.items():
        keep = ranking.first(size)
        with masked(trained.model, keep):
            measured = example_losses(trained.model, task, tests, collate)
        yield scored(
            criterion.name,
            said,
            {name: int(keep[name].sum()) for name in ranking.scores},
            test_loss=measured.mean,
            run_seconds=run_seconds,
            criterion_seconds=criterion_seconds,
            frontier_seconds=frontier_seconds,
        )


def _what(row: dict[str, Any]) -> str:
    return str(row["what"])


def _seconds(values: dict[str, Any]) -> float:
    return float(sum(values["processor_seconds"].values()))


def _key(folder: Path) -> dict[str, str]:
    values = record.read(folder / CUT)
    assert values is not None
    problem = values["configuration"]["task"]["planted"].get("seed", 0)
    return {"setting": values["task"], "problem": str(problem)}


if __name__ == "__main__":
    measure(str(__doc__), FIELDS, _key, lines, _what)
