"""Hold learned settings against their competitors on real data of 200 or 1,000 examples in all.

    python -m benchmarks.learned_settings --out DIR --data sst2=DIR --data stsb=DIR [--sizes 200]
    python -m benchmarks.learned_settings --out DIR --table

``default`` is LoRA at its usual settings on all of the examples, ``stopped`` LoRA on 80 %, stopped
early on the other 20 %, ``stopped_all`` LoRA on all for as many passes as that took to its best.
``random`` is the best of random settings, whose trials stop early too, within the processor time
that ``learned``, method=learned_settings, takes until it knows its settings and passes. Every seed
draws its own examples. The test set is the task's, and chose nothing. What is there already is not
run again. The table has a line for each task, size and way, and the differences of ``learned`` to
the others with intervals over seeds; and how far the values agree between seeds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr, t

EPOCHS = 20
# Published or usual for the task; a test set of 1,000 where it is larger.
TASKS = {
    "sst2": (),
    "mrpc": (),
    "rte": (),
    "stsb": ("train.gradient_clipping=1",),
    "jnlpba": ("task.max_test=1000",),
}
WAYS = {
    "default": ("method=lora",),
    "stopped": ("method=lora", "method.hold_out=0.2", "engine.early_stopping=3"),
    "stopped_all": ("method=random_settings", "method.trials=1"),
    "learned": ("method=learned_settings",),
    "random": ("method=random_settings", "method.trials=64"),
}
LEARNED = "learned"


def run(folder: Path, way: str, task: str, data: Path, size: int, seed: int) -> None:
    """Train one way, unless it is done."""
    out = folder / way
    if (out / "result.json").is_file():
        return
    given = [*WAYS[way], *TASKS[task], f"task={task}", f"task.data_dir={data.resolve()}"]
    given += [f"task.max_train={size}", f"task.subset_seed={seed}", f"seed={seed}", "model=minilm"]
    given += [f"train.epochs={EPOCHS}", "engine.checkpoint_every=0", "run.figures=false"]
    if way == "random":
        seconds = result_of(folder / LEARNED)["processor_seconds"]
        before = sum(spent for stage, spent in seconds.items() if stage != "train")
        given.append(f"method.processor_seconds={before:.0f}")
    given.append(f"hydra.run.dir={out.resolve()}")
    subprocess.run([sys.executable, "-m", "experiments.run", *given], check=True)


def result_of(out: Path) -> dict[str, Any]:
    """What result.json says."""
    result: dict[str, Any] = json.loads((out / "result.json").read_text(encoding="utf-8"))
    return result


def table(out: Path) -> Iterator[str]:
    """The lines of the module's docstring."""
    for cell in sorted({folder.parent for folder in out.glob("*/seed*")}):
        seeds = sorted(folder for folder in cell.glob("seed*") if folder.is_dir())
        for way in WAYS:
            done = [folder / way for folder in seeds if (folder / way / "result.json").is_file()]
            if not done:
                continue
            results = [result_of(each) for each in done]
            metric = results[0]["primary_metric"]
            loss = np.array([result["test_loss"] for result in results])
            score = np.array([result["metrics"][metric] for result in results])
            seconds = np.mean([sum(result["processor_seconds"].values()) for result in results])
            yield (
                f"{cell.name} {way}: {len(done)} seeds, test loss {loss.mean():.3f} "
                f"({_listed(loss)}), {metric} {score.mean():.3f} ({_listed(score)}), "
                f"{seconds:.0f} processor s"
            )
            both = [each for each in done if (each.parent / LEARNED / "result.json").is_file()]
            if way != LEARNED and len(both) > 1:
                pairs = [(result_of(each.parent / LEARNED), result_of(each)) for each in both]
                less = np.array([mine["test_loss"] - theirs["test_loss"] for mine, theirs in pairs])
                more = np.array(
                    [mine["metrics"][metric] - theirs["metrics"][metric] for mine, theirs in pairs]
                )
                yield f"    {LEARNED} - {way}: loss {_interval(less)}, {metric} {_interval(more)}"
        yield from _agreement([folder / LEARNED for folder in seeds])


def _agreement(runs: Sequence[Path]) -> Iterator[str]:
    found = [
        result_of(each)["lora"]["settings"] for each in runs if (each / "result.json").exists()
    ]
    if len(found) < 2:
        return
    by_module = (name for name, value in found[0].items() if isinstance(value, dict) and value)
    for name in (name for name in by_module if name != "found_with"):
        modules = sorted(found[0][name])
        values = [[settings[name][module] for module in modules] for settings in found]
        if len(modules) > 2:
            pairs = [spearmanr(a, b).statistic for a, b in itertools.combinations(values, 2)]
            yield f"    {name}: Spearman between seeds {np.mean(pairs):.2f} over {len(modules)}"
        middle = [float(np.exp(np.mean(np.log(each)))) for each in values]
        yield f"    {name}: geometric means {_listed(np.array(middle))}"


def _interval(differences: np.ndarray) -> str:
    """Mean and Student's 95 % interval over seeds."""
    width = t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / len(differences) ** 0.5
    mean = differences.mean()
    return f"{mean:+.3f} ({mean - width:+.3f} to {mean + width:+.3f})"


def _listed(numbers: np.ndarray) -> str:
    return " ".join(f"{number:.3g}" for number in numbers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", action="append", default=[], metavar="TASK=DIR")
    parser.add_argument("--sizes", default="200,1000")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--only", choices=[*WAYS])
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if not options.table:
        places = dict(word.split("=", 1) for word in options.data)
        if not places or set(places) - set(TASKS):
            parser.error(f"--data TASK=DIR is needed, TASK one of {', '.join(TASKS)}")
        sizes, seeds = options.sizes.split(","), options.seeds.split(",")
        for size, seed, task in itertools.product(sizes, seeds, places):
            folder = options.out / f"{task}_{size}" / f"seed{seed}"
            for way in WAYS if options.only is None else [options.only]:
                run(folder, way, task, Path(places[task]), int(size), int(seed))
    for line in table(options.out):
        print(line)


if __name__ == "__main__":
    main()
