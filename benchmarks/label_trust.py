"""Hold the scores of wrong labels against each other on real data, and the models after them.

    python -m benchmarks.label_trust --data DIR --out DIR [--task sst2] [--noise 0.4]
        [--kind symmetric] [--size 1000] [--trusted 50] [--seeds 0,1] [--weights] [--models]
    python -m benchmarks.label_trust --out DIR --table

--size training examples of --task (of classes, or tagging) of which a share is made wrong, and some
trusted ones; each seed draws its own. The scores are those of ``experiments.suspects``, by the same
code and at its defaults, and the table has the AUC of each; with --weights that of the weights of
method=example_weights too. With --models (for tasks of classes)
LoRA is also trained on all as it is and the trusted ones (pooled_data), without the suspects (drop,
by each of --scores), with their proposed labels (relabel), with the likeliest label of each by how
sure it is (by_pooled), on the trusted ones alone, on these from the backbone that the noisy run
ended with (noisy_then_trusted, its head anew), and with all labels right (oracle); as many suspects
as are likelier wrong than right. The test set (of GLUE the validation split) chooses nothing; of
JNLPBA give a folder of train and test alone. What is there already is not run again.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.cli.command_line import CommandLine
from experiments.metrics.crossed import crossed
from experiments.results import weights_file
from experiments.results.finished_run import SavedRun
from experiments.suspecting import table_file
from experiments.suspecting.again import plan_of, trusting_task
from experiments.suspecting.apply import applied
from experiments.suspecting.find import Found, find
from experiments.suspecting.scores import MEANINGS, Scores, area
from experiments.training.fine_tuning_job import FineTuningJob
from experiments.training.job import execute

EPOCHS = 5
MAX_TEST = 1000  # SST-2's validation split has 872
FOLDS, TRUSTED_EPOCHS = 3, 20.0  # the program's defaults
ALONE, THEN = "trusted_alone", "noisy_then_trusted"
NOISY, TABLE, ESTIMATED = "noisy", table_file.FILE, "estimated.json"
WEIGHTED, WEIGHT_AREA = "weighted", "weight_area.json"


def measure(folder: Path, options: argparse.Namespace, seed: int) -> None:
    """One draw: the run on all labels as they are, the scores, and the models after them."""
    noisy, weighted = folder / NOISY, folder / WEIGHTED
    methods = {noisy: "lora", **({weighted: "example_weights"} if options.weights else {})}
    for out, method in methods.items():
        if _finished(out):
            continue
        given = [
            *(f"method={method}", f"task={options.task}"),
            f"task.data_dir={options.data.resolve()}",
            *(
                f"task.max_train={options.size + options.trusted}",
                f"task.trusted={options.trusted}",
            ),
            *(f"task.label_noise={options.noise}", f"task.noise_kind={options.kind}"),
            *(f"task.subset_seed={seed}", f"task.noise_seed={seed}", f"seed={seed}"),
            *(f"task.max_test={MAX_TEST}", "model=minilm", f"train.epochs={EPOCHS}"),
            *("engine.keep=last", "engine.evaluate_every=0"),
            *("engine.checkpoint_every=0", "run.figures=false"),
            f"hydra.run.dir={out.resolve()}",
        ]
        subprocess.run([sys.executable, "-m", "experiments.run", *given], check=True)
    run = SavedRun.open(str(noisy), CommandLine.of_one([f"run={noisy}"]), [])
    task = trusting_task(run)
    plan = plan_of(run, len(task.train))
    if not (folder / TABLE).is_file():
        job = FineTuningJob.load(plan, replace(task, tests={}))
        found = find(job, noisy, FOLDS, EPOCHS, TRUSTED_EPOCHS)
        (folder / ESTIMATED).write_text(json.dumps(found.scores.estimated), encoding="utf-8")
        table_file.write(task, found, "trusted", folder / TABLE)
    if options.weights and not (folder / WEIGHT_AREA).is_file():
        learned = json.dumps(weight_area(weighted, task))
        (folder / WEIGHT_AREA).write_text(learned, encoding="utf-8")
    if not options.models:
        return
    found = read(folder, task)
    count = found.scores.estimated
    assert count is not None
    ways: dict[str, Any] = {
        name: lambda: applied(task, found, "trusted", "trusted", 0) for name in (ALONE, THEN)
    }
    for by in options.scores.split(","):
        ways[f"drop_{by}"] = lambda by=by: applied(task, found, "drop", by, count)
        ways[f"relabel_{by}"] = lambda by=by: applied(task, found, "relabel", by, count)
    ways["by_pooled"] = lambda: applied(task, found, "pooled", "pooled", 0)
    ways["pooled_data"] = lambda: applied(task, found, "drop", "trusted", 0)
    ways["oracle"] = lambda: applied(_right(task), found, "drop", "trusted", 0)
    for name, data in ways.items():
        out = folder / name
        if _finished(out):
            continue
        mine = plan
        if name in (ALONE, THEN):
            size = min(plan.settings.batch_size, options.trusted)
            settings = replace(plan.settings, epochs=TRUSTED_EPOCHS, batch_size=size)
            mine = replace(plan, settings=settings)
        if name == THEN:
            mine = replace(mine, model=replace(plan.model, warm_start=str(noisy.resolve())))
        execute(replace(mine, figures=False), out, data())


def weight_area(run: Path, task: Any) -> float | None:
    """The AUC of what a run of method=example_weights took away from each example's weight."""
    learned = json.loads((run / weights_file.FILE).read_text(encoding="utf-8"))
    pairs = zip(task.train, task.origins(), strict=True)
    wrong = np.array([example.label != origin.truth for example, origin in pairs])
    return area(1 - np.array(learned["weights"]), wrong)


def read(folder: Path, task: Any) -> Found:
    """What a table says, in the order of the training data."""
    with (folder / TABLE).open(newline="", encoding="utf-8") as file:
        rows = {int(row["row"]): row for row in csv.DictReader(file)}
    mine = [rows[origin.number] for origin in task.origins()]
    columns = {
        name: np.array([float(row[name]) for row in mine]) for name in MEANINGS if name in mine[0]
    }
    classes = {table_file.shown(task.answers, k): k for k in range(task.answers.size)}
    estimated = json.loads((folder / ESTIMATED).read_text(encoding="utf-8"))
    return Found(
        Scores(columns, estimated),
        [classes[row["proposed"] or row["given"]] for row in mine],
        np.array([float(row["sure"]) for row in mine]),
    )


def _right(task: Any) -> Any:
    """The same data with the labels that they had."""
    pairs = zip(task.train, task.origins(), strict=True)
    return replace(task, train=[e._replace(label=origin.truth) for e, origin in pairs])


def table(out: Path) -> Iterator[str]:
    """Scores and models of each setting, over its seeds."""
    for setting in sorted(path for path in out.iterdir() if path.is_dir()):
        seeds = sorted(path.parent for path in setting.glob(f"seed*/{TABLE}"))
        areas: dict[str, list[float]] = {}
        for seed in seeds:
            rows = pd.read_csv(seed / TABLE, dtype={"given": str, "true": str})
            wrong = (rows.given != rows.true).to_numpy()
            for name in MEANINGS:
                if name in rows:
                    found = area(rows[name].to_numpy(), wrong)
                    assert found is not None
                    areas.setdefault(name, []).append(found)
            if (seed / WEIGHT_AREA).is_file():
                learned = json.loads((seed / WEIGHT_AREA).read_text(encoding="utf-8"))
                areas.setdefault("weight", []).append(learned)
        yield f"{setting.name}, {len(seeds)} seeds: AUC"
        for name, each in areas.items():
            yield f"    {name}: {np.mean(each):.3f} ({_listed(each)})"
        if not setting.name.startswith("jnlpba"):
            yield from _models(seeds)


def _models(seeds: Sequence[Path]) -> Iterator[str]:
    names = sorted({path.parent.name for seed in seeds for path in seed.glob("*/result.json")})
    right = {
        name: {seed: _right_ones(seed / name) for seed in seeds if _finished(seed / name)}
        for name in names
    }
    for name, found in right.items():
        each = [float(rows.mean()) for rows in found.values()]
        yield f"    {name}: accuracy {np.mean(each):.3f} ({_listed(each)})"
    for one in (name for name in names if name.startswith(("drop", "relabel", "by_"))):
        for other in (NOISY, ALONE, THEN, "pooled_data", "oracle"):
            both = [seed for seed in right[one] if seed in right.get(other, {})]
            if len(both) > 1:
                less = crossed(np.stack([right[one][s] - right[other][s] for s in both]))
                yield f"    {one} - {other}: {less.mean:+.3f} ({less.low:+.3f} to {less.high:+.3f})"


def _finished(run: Path) -> bool:
    """Whether a model of a setting is there: others may be under way."""
    return (run / "result.json").is_file()


def _right_ones(run: Path) -> np.ndarray:
    """Whether each test example is right."""
    lines = (run / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return np.array([float(row["prediction"] == row["label"]) for row in rows])


def _listed(numbers: Sequence[float]) -> str:
    return " ".join(f"{number:.3f}" for number in numbers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--task", default="sst2", choices=["sst2", "mnli", "jnlpba"])
    parser.add_argument("--noise", default="0.4")
    parser.add_argument("--kind", default="symmetric", choices=["symmetric", "one_sided"])
    parser.add_argument("--trusted", type=int, default=50)
    parser.add_argument("--size", type=int, default=1000)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--weights", action="store_true")
    parser.add_argument("--models", action="store_true")
    parser.add_argument("--scores", default="pooled,trusted", help="that drop and relabel go by")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if not options.table:
        if options.data is None:
            parser.error("--data is needed, the folder of the task's data")
        if (options.models or options.weights) and options.task == "jnlpba":
            parser.error(
                "--models and --weights are for tasks of classes, --task=jnlpba is tagging"
            )
        for seed in options.seeds.split(","):
            setting = f"{options.kind}_{options.noise}_{options.size}_{options.trusted}"
            if options.task != "sst2":
                setting = f"{options.task}_{setting}"
            measure(options.out / setting / f"seed{seed}", options, int(seed))
    for line in table(options.out):
        print(line)


if __name__ == "__main__":
    main()
