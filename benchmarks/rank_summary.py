"""Make the tables of docs/ranks.md from what benchmarks/rank_evidence.py measured.

    python -m benchmarks.rank_summary FILE.csv

Differences in test loss are to the whole adapter of the same seed. Their mean over seeds has the
standard error sqrt(sd^2 / n + mean(se_i^2)): seeds are drawn anew (sd over n seeds), test examples
are the same in all of them, so that their part does not shrink with n. The limit is the upper one
of a two-sided 95 % interval by that error. Agreement is Spearman's rho of the ranks between every
two seeds, over all modules and within each kind, at half of the components.
"""

from __future__ import annotations

import csv
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments.metrics.agreement import agreement

# MiniLM's adapted modules, in the order in which ranks stand in the file.
KINDS = ("query", "value")
Row = dict[str, str]


def mean_and_error(rows: Sequence[Row]) -> tuple[float, float]:
    """Of the difference in test loss, as the module's page says."""
    found = [float(row["difference"]) for row in rows]
    between = statistics.variance(found) / len(found) if len(found) > 1 else 0.0
    shared = statistics.mean(float(row["error"]) ** 2 for row in rows)
    return statistics.mean(found), (between + shared) ** 0.5


def grouped(rows: Iterable[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """By task, what was measured and its share; random draws are one."""
    groups = defaultdict(list)
    for row in rows:
        what = "random" if row["what"].startswith("random") else row["what"]
        groups[row["task"], what, row["share"]].append(row)
    return groups


def losses(rows: Sequence[Row]) -> None:
    """A line for each part of each task."""
    print(
        "| task | what | seeds | components | test loss - whole | upper 95 % | delta | score "
        "- whole | seconds / run |\n|---|---|---|---|---|---|---|---|---|"
    )
    for (task, what, share), group in grouped(rows).items():
        whole = {r["seed"]: float(r["run_seconds"]) for r in rows if r["task"] == task}
        mean, error = mean_and_error(group)
        components = statistics.mean(float(r["components"]) for r in group)
        scores = [float(r["score_difference"]) for r in group if r["score_difference"]]
        deltas = [float(r["delta"]) for r in group if r["delta"]]
        cost = [float(r["run_seconds"]) / whole[r["seed"]] for r in group if share == "trained"]
        cost += [float(r["seconds"]) / whole[r["seed"]] for r in group if r["seconds"]]
        seeds = sorted({r["seed"] for r in group})
        cells = [
            *(task, f"{what} {share}", ",".join(seeds), f"{components:.1f}"),
            *(f"{mean:+.4f} ± {error:.4f}", f"{mean + 1.96 * error:+.4f}"),
            f"{statistics.mean(deltas):.4f}" if deltas else "",
            f"{statistics.mean(scores):+.3f}" if scores else "",
            f"{statistics.mean(cost):.2f}" if cost else "",
        ]
        print("| " + " | ".join(cells) + " |")


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
    with Path(sys.argv[1]).open(newline="") as file:
        table = list(csv.DictReader(file))
    losses(table)
    agreements(table)
