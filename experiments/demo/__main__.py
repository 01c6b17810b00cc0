"""Show offline what this is about: ranks found in two ways beside LoRA, in a minute or two.

python -m experiments.demo [overrides as for experiments.run]

AutoLoRA, whose search is one level above the training, LoRA trained at the same size, and LoRA
of rank 8 that was cut to the smallest part that loses next to nothing (method=lora_cut).
"""

from __future__ import annotations

import logging
import textwrap
import time
from pathlib import Path
from typing import Any

import torch

from bilevel.cutting import Frontier
from experiments.cli.program import program
from experiments.comparing import wording
from experiments.comparing.compare import compare
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.results import ranks_folder, record
from experiments.results.frontier_table import frontier_table
from experiments.results.rank_table import rank_table
from experiments.training.job import execute

# Long enough to over-fit the small, noisy training set, so that there is something to see.
EPOCHS = 25
# Over-fitting is what it is about; an evaluation a pass would be half of the time.
SHOWN = ["engine.evaluate_test=true", "engine.evaluate_every=2.5"]


def run(method: list[str], overrides: list[str], folder: Path) -> dict[str, Any]:
    """One run of ``python -m experiments.run``, in this process."""
    words = [*method, "task=demo", f"train.epochs={EPOCHS}", *SHOWN, *overrides]
    values = execute(Plan.of(compose_config(words)), folder)
    print(record.summary(values, folder))
    return values


def compared(runs: dict[str, dict[str, Any]]) -> str:
    """The runs side by side, a column each."""
    first = next(iter(runs.values()))
    metric = first["primary_metric"]
    widths = {name: max(12, len(name) + 2) for name in runs}
    lines = [f"{'':22}" + "".join(f"{name:>{width}}" for name, width in widths.items())]
    for label, value in (
        (f"test {metric}", lambda r: f"{r['metrics'][metric]:.4f}"),
        ("test loss", lambda r: f"{r['test_loss']:.4f}"),
        ("over-fitting gap", lambda r: f"{record.gap(r):.4f}"),
        ("adapter parameters", lambda r: f"{r['adapter_parameters']:,}"),
        ("seconds", lambda r: f"{seconds(r):.1f}"),
    ):
        row = "".join(f"{value(runs[name]):>{width}}" for name, width in widths.items())
        lines.append(f"  {label:20}{row}")
    return "\n".join(lines)


def seconds(values: dict[str, Any]) -> float:
    """Of processor time, all stages together."""
    return float(sum(values["processor_seconds"].values()))


def verdict(auto: dict[str, Any], plain: dict[str, Any], cut: dict[str, Any], learned: bool) -> str:
    """The three in a sentence; numbers of one seed, of a test set that nothing was chosen by."""

    def said(values: dict[str, Any]) -> str:
        return f"{values['adapter_parameters']:,} parameters, test loss {values['test_loss']:.3f}"

    if not learned:
        return (
            f"LoRA learned nothing that its held-out examples could tell, and was not cut: "
            f"{said(cut)}; AutoLoRA has {said(auto)}, LoRA trained at that size {said(plain)}."
        )

    return (
        f"In one run LoRA cut itself to {said(cut)}; AutoLoRA's search and retraining took "
        f"{seconds(auto) / seconds(cut):.1f} times as long and found {said(auto)}; LoRA trained at "
        f"that size has {said(plain)}. (One seed; the cut also kept its best weights by what it "
        "held out, the others their last. Tables over seeds: docs/ranks.md)"
    )


def show(auto: dict[str, Any], plain: dict[str, Any], cut: dict[str, Any], folder: Path) -> None:
    """Print what the three runs found."""
    print("\nRanks that AutoLoRA found:")
    print(rank_table(auto["ranks"]))
    where = folder / "lora_cut"
    found = ranks_folder.read(where) or {}
    frontier = Frontier.read(found)
    if frontier is not None:
        print(f"\nParts of LoRA, rank 8, on {frontier.examples} examples that it never trained on:")
        print(frontier_table(frontier))
    print("\nRanks of the cut:")
    print(rank_table(cut["ranks"]))
    rank = max(plain["ranks"].values())
    print("\n" + compared({"AutoLoRA": auto, f"LoRA, rank {rank}": plain, "LoRA, cut": cut}))
    print(f"\n{verdict(auto, plain, cut, frontier is not None and frontier.learned)}")
    print(f"\nadapter (PEFT): {cut['adapter_dir']}")
    print(f"frontier:       {where / ranks_folder.FOLDER / ranks_folder.PICTURE}")
    print(f"figures:        {folder / 'autolora' / 'figures'}")
    print(f"a page of all:  python -m experiments.report {folder}")
    runs = {"autolora": auto, "lora": plain, "lora_cut": cut}
    print(f"\n{said_of({folder / name: values for name, values in runs.items()})}")


def said_of(runs: dict[Path, dict[str, Any]]) -> str:
    """What the differences in the test score are worth, as ``python -m experiments.report`` has it.

    Args:
        runs: folder -> what its result.json says.
    """
    (found,) = compare([{**values, "folder": str(path)} for path, values in runs.items()])
    return textwrap.fill(wording.conclusion(found), wording.COLUMNS)


@program(lambda: str(__doc__))
def main(overrides: list[str]) -> None:
    """Run the three methods and print them side by side."""
    folder = Path("outputs/demo") / time.strftime("%Y-%m-%d_%H-%M-%S")
    torch.set_num_threads(1)  # for a model this small a second thread costs more than it does
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    auto = run(["method=autolora"], overrides, folder / "autolora")
    mean = sum(auto["ranks"].values()) / len(auto["ranks"])
    rank = max(1, round(mean))  # a competitor of the same size
    plain = run(["method=lora", f"method.rank={rank}"], overrides, folder / "lora")
    cut = run(["method=lora_cut"], overrides, folder / "lora_cut")
    show(auto, plain, cut, folder)


if __name__ == "__main__":
    main()
