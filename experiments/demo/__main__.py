"""Show offline what this is about: AutoLoRA beside plain LoRA on the demo task, in a minute or two.

python -m experiments.demo [overrides as for experiments.run]
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Any

import torch

from experiments.cli.command_line import one_sentence
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.results import record
from experiments.training.job import execute

# Long enough to over-fit the small, noisy training set, so that there is something to see.
EPOCHS = 25
SHOWN = ["engine.evaluate_test=true"]  # over-fitting is what it is about


def run(method: list[str], overrides: list[str], folder: Path) -> dict[str, Any]:
    """One run of ``python -m experiments.run``, in this process."""
    words = [*method, "task=demo", f"train.epochs={EPOCHS}", *SHOWN, *overrides]
    values = execute(Plan.of(compose_config(words)), folder)
    print(record.summary(values, folder))
    return values


def rank_table(ranks: dict[str, int]) -> str:
    """Ranks by layer (rows) and module (columns)."""
    modules = list(dict.fromkeys(name.rsplit(".", 1)[1] for name in ranks))
    layers: dict[str, dict[str, int]] = {}
    for name, rank in ranks.items():
        number = next(part for part in name.split(".") if part.isdigit())
        layers.setdefault(number, {})[name.rsplit(".", 1)[1]] = rank
    lines = ["  layer  " + "  ".join(f"{m:>6}" for m in modules)]
    for number, row in layers.items():
        lines.append(f"  {number:>5}  " + "  ".join(f"{row.get(m, 0):>6}" for m in modules))
    return "\n".join(lines)


def main() -> None:
    """Run both methods and print them side by side."""
    overrides = sys.argv[1:]
    folder = Path("outputs/demo") / time.strftime("%Y-%m-%d_%H-%M-%S")
    torch.set_num_threads(1)  # for a model this small a second thread costs more than it does
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with one_sentence():
        auto = run(["method=autolora"], overrides, folder / "autolora")
        mean = sum(auto["ranks"].values()) / len(auto["ranks"])
        rank = max(1, round(mean))  # a competitor of the same size
        plain = run(["method=lora", f"method.rank={rank}"], overrides, folder / "lora")
    metric = auto["primary_metric"]
    print("\nRanks that AutoLoRA found:")
    print(rank_table(auto["ranks"]))
    print(f"\n{'':22}{'AutoLoRA':>12}{f'LoRA, rank {rank}':>16}")
    for label, value in (
        (f"test {metric}", lambda r: f"{r['metrics'][metric]:.4f}"),
        ("test loss", lambda r: f"{r['test_loss']:.4f}"),
        ("over-fitting gap", lambda r: f"{r['test_loss'] - r['train_loss']:.4f}"),
        ("adapter parameters", lambda r: f"{r['adapter_parameters']:,}"),
        ("seconds", lambda r: f"{sum(r['seconds'].values()):.1f}"),
    ):
        print(f"  {label:20}{value(auto):>12}{value(plain):>16}")
    print(f"\nadapter (PEFT): {auto['adapter_dir']}")
    print(f"figures:        {folder / 'autolora' / 'figures'}")


if __name__ == "__main__":
    main()
