"""Score ways to find ranks on planted problems: criteria on one LoRA run, and other methods.

    python -m benchmarks.planted_ranks --out FILE.csv [--criteria singular,activation] DIR ...

Every DIR holds the runs of one problem in folders whose names say what they are: ``lora`` (rank 8,
with examples held out or a clean validation split), which is cut by each criterion: at the number
of components that is right (``told``), and where the frontier says (``chosen``); and other methods'
runs, at the ranks they found. A line each: rank correlation, exact hits and so on against the true
ranks, which for unequal problems are those that the loss would choose at the same total
(:mod:`experiments.models.planted_removal`); test loss; processor seconds.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.rank_evidence import cut_of, scoring
from bilevel.cutting import Budget, Criterion, cut
from bilevel.cutting.criteria.registry import CRITERIA
from bilevel.cutting.held_out import halves
from bilevel.cutting.ranking import masked
from experiments.cli.command_line import CommandLine
from experiments.cli.quiet import quiet
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
        if values is None or path.name == CUT or path.name in done or not values["ranks"]:
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
    chosen = cut_of(trained, ranking, drawing)["keep"]
    frontier_seconds = time.process_time() - started
    total = sum((task.true_ranks or {}).values())
    for said, keep in (("told", ranking.first(total)), ("chosen", chosen)):
        if keep is None:
            continue
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


def main() -> None:
    """Measure, a line at a time, so that nothing is lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--criteria", default="singular")
    options = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    criteria = [CRITERIA[name]() for name in options.criteria.split(",")]
    before = list(csv.DictReader(options.out.open())) if options.out.is_file() else []
    with options.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if not before:
            writer.writeheader()
        for folder in options.folders:
            config = record.read(folder / CUT)
            assert config is not None
            problem = str(config["configuration"]["task"]["planted"].get("seed", 0))
            here = {
                row["what"]
                for row in before
                if (row["setting"], row["problem"]) == (config["task"], problem)
            }
            for row in itertools.chain.from_iterable(
                list(group)  # a criterion is done when one of its lines is there
                for _, group in itertools.groupby(lines(folder, criteria, here), _what)
            ):
                writer.writerow(
                    {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
                )
                file.flush()


if __name__ == "__main__":
    main()
