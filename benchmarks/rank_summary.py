"""Make the tables of docs/ranks.md from what benchmarks/rank_evidence.py measured.

    python -m benchmarks.rank_summary FILE.csv

Differences in test loss are to the whole adapter of the same seed; over two seeds and more with the
95 % interval of :mod:`experiments.metrics.crossed`, of one seed with that of its test examples
alone (in brackets). Where the figures of single examples are not beside FILE.csv, the interval is
over the seeds alone, by Student's t, of one seed by the standard error if its line has one. LoRA
trained at a rank is also held against the cut of as many components of the same seed: of LoRA at
rank 8 on 80 % of the data, and where it was trained on all of them, as the small one was.
Agreement is Spearman's rho of the ranks between every two seeds, over all modules and within each
kind, at half of the components.
"""

from __future__ import annotations

import csv
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from benchmarks.lines import array_of
from experiments.metrics.agreement import agreement
from experiments.metrics.crossed import crossed

# MiniLM's adapted modules, in the order in which ranks stand in the file.
KINDS = ("query", "value")
CUTS = ("singular", "whole")  # of LoRA on 80 % of the data
Row = dict[str, str]


def interval(file: Path, rows: Sequence[Row]) -> tuple[float, float, float]:
    """Mean, low and high of the difference in test loss, as the module's page says."""
    seeds = {row["seed"] for row in rows}
    if not all(array_of(file, row).is_file() for row in rows):
        return of_means(rows, "difference", "error")
    arrays = {seed: [r for r in rows if r["seed"] == seed] for seed in sorted(seeds)}
    table = np.stack([np.mean([np.load(array_of(file, r)) for r in g], 0) for g in arrays.values()])
    if len(seeds) > 1:
        found = crossed(table)
        return found.mean, found.low, found.high
    mean, half = float(table.mean()), 1.96 * float(table[0].std(ddof=1)) / table.shape[1] ** 0.5
    return mean, mean - half, mean + half


def of_means(rows: Sequence[Row], of: str, error: str) -> tuple[float, float, float]:
    """Mean, low and high by the means of each seed; of one seed by its standard error, if known."""
    by_seed = defaultdict(list)
    for row in rows:
        by_seed[row["seed"]].append(float(row[of]))
    means = np.array([statistics.mean(values) for values in by_seed.values()])
    if len(means) > 1:
        half = stats.sem(means) * stats.t.ppf(0.975, len(means) - 1)
    else:
        half = 1.96 * float(rows[0][error] or "nan")
    return float(means.mean()), float(means.mean() - half), float(means.mean() + half)


def grouped(rows: Iterable[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """By task, what was measured and its share; random draws are one."""
    groups = defaultdict(list)
    for row in rows:
        what = "random" if row["what"].startswith("random") else row["what"]
        groups[row["task"], what, row["share"]].append(row)
    return groups


def losses(file: Path, rows: Sequence[Row]) -> None:
    """A line for each part of each task."""
    print(
        "| task | what | seeds | components | test loss - whole | 95 % | delta | score - whole "
        "| LoRA runs |\n|---|---|---|---|---|---|---|---|---|"
    )
    for (task, what, share), group in grouped(rows).items():
        cuts = [r for r in rows if r["task"] == task and r["what"] in CUTS]
        whole = {r["seed"]: float(r["run_seconds"]) for r in cuts}  # of LoRA on 80 %
        mean, low, high = interval(file, group)
        components = statistics.mean(float(r["components"]) for r in group)
        scores = [float(r["score_difference"]) for r in group if r["score_difference"]]
        deltas = [float(r["delta"]) for r in group if r["delta"]]
        cost = [float(r["run_seconds"]) / whole[r["seed"]] for r in group if share == "trained"]
        cost += [float(r["seconds"]) / whole[r["seed"]] for r in group if r["seconds"]]
        seeds = sorted({r["seed"] for r in group})
        cells = [
            *(task, f"{what} {share}", ",".join(seeds), f"{components:.1f}"),
            f"{mean:+.4f}",
            f"{low:+.4f} to {high:+.4f}" if len(seeds) > 1 else f"({low:+.4f} to {high:+.4f})",
            f"{statistics.mean(deltas):.4f}" if deltas else "",
            f"{statistics.mean(scores):+.3f}" if scores else "",
            f"{statistics.mean(cost):.2f}" if cost else "",
        ]
        print("| " + " | ".join(cells) + " |")


def against_cuts(rows: Sequence[Row], of: str = "the cut", cuts: Sequence[str] = CUTS) -> None:
    """A line for each rank that LoRA was trained at: its loss and score, less the cut's.

    Args:
        rows: of the file.
        of: what the cuts are called.
        cuts: lines that are cuts. Of :data:`CUTS` the differences that the file has are taken, with
            their errors over the examples; of others those of the two test losses.
    """
    cut = {(r["task"], r["seed"], r["components"]): r for r in rows if r["what"] in cuts}
    print(f"\n| task | trained | seeds | test loss - {of} | 95 % | better in | score - {of} |")
    print("|---|---|---|---|---|---|---|")
    for (task, what, share), group in grouped(rows).items():
        pairs = [(row, cut.get((task, row["seed"], row["components"]))) for row in group]
        if cuts is CUTS:
            pairs = [(row, its) for row, its in pairs if row["cut_difference"]]
        else:
            pairs = [(_less(row, its), its) for row, its in pairs if its is not None]
        if share != "trained" or not pairs or what in cuts:
            continue
        mean, low, high = of_means([row for row, _ in pairs], "cut_difference", "cut_error")
        better = sum(float(row["cut_difference"]) < 0 for row, _ in pairs)
        scores = [
            float(row["score"]) - float(its["score"])
            for row, its in pairs
            if its and its["score"] and row["score"]
        ]
        cells = [
            *(task, what, ",".join(sorted(row["seed"] for row, _ in pairs)), f"{mean:+.4f}"),
            f"{low:+.4f} to {high:+.4f}" if len(pairs) > 1 else f"({low:+.4f} to {high:+.4f})",
            f"{better} of {len(pairs)}",
            f"{statistics.mean(scores):+.3f}" if scores else "",
        ]
        print("| " + " | ".join(cells) + " |")


def _less(row: Row, cut: Row) -> Row:
    apart = float(row["test_loss"]) - float(cut["test_loss"])
    return {**row, "cut_difference": str(apart), "cut_error": ""}


def agreements(rows: Sequence[Row], share: str = "0.5") -> None:
    """A line for each task and criterion."""
    print("\n| task | ranks from | seeds | all modules | " + " | ".join(KINDS) + " |")
    print("|---|---|---|---|" + "---|" * len(KINDS))
    for (task, what, part), group in grouped(rows).items():
        if part not in (share, "trained") or what in ("even", "random"):
            continue
        runs = [
            {f"layer.{i // 2}.{KINDS[i % 2]}": int(rank) for i, rank in enumerate(ranks)}
            for ranks in (row["ranks"].split() for row in group)
        ]
        found = agreement(runs)
        if found and any(a.spearman is not None for a in found.values()):
            said = ["-" if a.spearman is None else f"{a.spearman:.2f}" for a in found.values()]
            print(f"| {task} | {what} | {len(runs)} | " + " | ".join(said) + " |")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    path = Path(sys.argv[1])
    with path.open(newline="") as file:
        table = list(csv.DictReader(file))
    losses(path, table)
    against_cuts(table)
    against_cuts(table, "r8 cut", ["r8 cut", "r8"])
    agreements(table)
