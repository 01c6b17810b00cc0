"""Hold learned source weights against their competitors on SST-2 with three sources beside it.

    python -m benchmarks.source_mixture --sst2 DIR --yelp DIR --out DIR [--seeds 0,1]
    python -m benchmarks.source_mixture --out DIR --table

Four sources of 1,000 sentences each: ``clean`` (SST-2 as it is), ``shuffled`` (its labels in random
order), ``flipped`` (every label the other one) and ``reviews`` (sentences of Yelp, rightly
labelled: another domain). D_val is 200 other sentences of SST-2, the test set SST-2's validation
split. All are drawn anew by each seed, no sentence twice. What is there already is not run again.

``without_NAME`` leaves one source out; ``pooled_long`` trains on all for about as long as
``source_weights`` takes; ``trusted_stopped`` on D_val for as many passes as were best by a fifth of
it; ``pooled_then_trusted`` on D_val from the weights that ``pooled`` ended with,
``weights_then_trusted`` from those of ``source_weights``.

--sst2 and --yelp name folders with train.parquet and validation.parquet (``sentence`` or ``text``,
and ``label``); the table has a line for each way with its mean over the seeds, and the difference
of ``source_weights`` and of LoRA under its weights to each, with an interval over seeds and
examples.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.metrics.crossed import crossed

SOURCES = ("clean", "shuffled", "flipped", "reviews")
SIZE, TRUSTED = 1000, 200
EPOCHS = 3
DVAL_ALONE = "d_val_alone"
ALONE = ("method=lora", "task.sources={trusted: validation.csv}", "engine.keep=last")
WAYS = {
    "pooled": ("method=lora",),
    "pooled_long": ("method=lora",),
    "trusted": ALONE,
    "trusted_stopped": ("method=random_settings", "method.trials=1"),
    "trusted_short": ALONE,
    "pooled_then_trusted": ALONE,
    **{f"without_{name}": ("method=lora", f"task.drop_sources=[{name}]") for name in SOURCES},
    "clean": ("method=lora", "task.keep_sources=[clean]"),
    "source_weights": ("method=source_weights",),
    "under_weights": ("method=lora",),
    "weights_then_trusted": ALONE,
}
# The trusted ones are few; 12 of the clean ones are as many steps as 3 of all.
PASSES = {"pooled_long": 11, "trusted_stopped": 40, "trusted": 20, "trusted_short": 5, "clean": 12}
PASSES |= {"pooled_then_trusted": 20, "weights_then_trusted": 20}
# From another way's weights, with a new head.
STARTS = {"pooled_then_trusted": "pooled", "weights_then_trusted": "source_weights"}
LEARNED = ("source_weights", "under_weights")
Measure = Callable[[Path], np.ndarray]


def write_data(sst2: Path, yelp: Path, folder: Path, seed: int) -> None:
    """The four sources, D_val and the test set, as CSV files of text and label."""
    random = np.random.default_rng(seed)
    train = pd.read_parquet(sst2 / "train.parquet").rename(columns={"sentence": "text"})
    test = pd.read_parquet(sst2 / "validation.parquet").rename(columns={"sentence": "text"})
    rest = train.drop_duplicates("text")
    drawn = rest[~rest.text.isin(test.text)].sample(3 * SIZE + TRUSTED, random_state=seed)
    reviews = pd.read_parquet(yelp / "validation.parquet").drop_duplicates("text")
    parts = {
        "clean": drawn[:SIZE].copy(),
        "shuffled": drawn[SIZE : 2 * SIZE].copy(),
        "flipped": drawn[2 * SIZE : 3 * SIZE].copy(),
        "reviews": reviews.sample(SIZE, random_state=seed),
        "validation": drawn[3 * SIZE :],
        "test": test,
    }
    shuffled = random.permutation(parts["shuffled"].label.to_numpy())
    parts["shuffled"]["label"] = shuffled
    parts["flipped"]["label"] = 1 - parts["flipped"].label
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        part[["text", "label"]].to_csv(folder / f"{name}.csv", index=False)
    # D_val as all there is to train on, with nothing beside it to stop by.
    (folder / DVAL_ALONE).mkdir(exist_ok=True)
    for name, part in {"train": parts["validation"], "test": parts["test"]}.items():
        part[["text", "label"]].to_csv(folder / DVAL_ALONE / f"{name}.csv", index=False)


def run(folder: Path, way: str, seed: int) -> None:
    """Train one way, unless it is done."""
    out = folder / way
    if (out / "result.json").is_file():
        return
    files = ", ".join(f"{name}: {name}.csv" for name in SOURCES)
    given = [*WAYS[way], "task=classification", "model=minilm", "task.text_columns=[text]"]
    data = folder / DVAL_ALONE if way == "trusted_stopped" else folder
    given += [f"task.data_dir={data.resolve()}", f"seed={seed}", f"hydra.run.dir={out.resolve()}"]
    given += [f"train.epochs={PASSES.get(way, EPOCHS)}", "engine.checkpoint_every=0"]
    if way in STARTS:
        given.append(f"model.warm_start={(folder / STARTS[way]).resolve()}")
    if WAYS[way] is not ALONE and data is folder:
        given.append(f"task.sources={{{files}}}")
    if way == "under_weights":
        weights = folder / "source_weights" / "source_weights.json"
        given.append(f"task.source_weights={weights.resolve()}")
    subprocess.run([sys.executable, "-m", "experiments.run", *given], check=True)


def rows_of(out: Path) -> list[dict[str, Any]]:
    """What the run says of each test example."""
    lines = (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def losses(out: Path) -> np.ndarray:
    """Each test example's loss."""
    return np.array([-np.log(row["probabilities"][int(row["label"])]) for row in rows_of(out)])


def right(out: Path) -> np.ndarray:
    """Whether each test example is right."""
    return np.array([float(row["prediction"] == row["label"]) for row in rows_of(out)])


def table(
    out: Path, ways: Sequence[str] = tuple(WAYS), measures: Mapping[str, Measure] | None = None
) -> Iterator[str]:
    """A line for each way, and the differences.

    Args:
        out: with a folder for each seed.
        ways: in order.
        measures: name -> of a run's folder, a number for each test example.
    """
    measures = measures or {"accuracy": right, "test loss": losses}
    seeds = sorted(folder for folder in out.glob("seed*") if folder.is_dir())
    for way in ways:
        done = [folder / way for folder in seeds if (folder / way / "result.json").is_file()]
        if not done:
            continue
        results = [json.loads((run / "result.json").read_text(encoding="utf-8")) for run in done]
        seconds = np.mean([sum(result["processor_seconds"].values()) for result in results])
        said = ""
        for name, measure in measures.items():
            values = np.array([measure(run).mean() for run in done])
            said += f"{name} {values.mean():.3f} ({_listed(values)}), "
        yield f"{way}: {len(done)} seeds, {said}{seconds:.0f} processor s"
        for learned in LEARNED:
            both = [run for run in done if (run.parent / learned / "result.json").is_file()]
            if way == learned or len(both) < 2:
                continue
            for name, measure in measures.items():
                rows = [measure(run.parent / learned) - measure(run) for run in both]
                found = crossed(np.stack(rows))
                yield (
                    f"    {learned} - {way}, {name}: {found.mean:+.3f} "
                    f"({found.low:+.3f} to {found.high:+.3f})"
                )
    for folder in seeds:
        weights = folder / "source_weights" / "source_weights.json"
        if weights.is_file():
            found = json.loads(weights.read_text(encoding="utf-8"))["weights"]
            yield f"{folder.name}: {', '.join(f'{k} {v:.3f}' for k, v in found.items())}"


def _listed(numbers: np.ndarray) -> str:
    return " ".join(f"{number:.3f}" for number in numbers)


def arguments(
    doc: str, data: Sequence[str], ways: Sequence[str], seeds: str
) -> tuple[argparse.Namespace, list[str]]:
    """What the command line says, and the ways that it asks for.

    Args:
        doc: of the program.
        data: options that name folders of data, needed but for ``--table``.
        ways: all that there are.
        seeds: where none are given.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    for name in data:
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default=seeds)
    parser.add_argument("--only", help="some of the ways, after those that they start from")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    asked = [*ways] if options.only is None else options.only.split(",")
    if strange := [way for way in asked if way not in ways]:
        parser.error(f"--only={','.join(strange)}: allowed are {', '.join(ways)}")
    if not options.table and None in [getattr(options, name) for name in data]:
        parser.error(f"{', '.join(f'--{name}' for name in data)} are needed to make the data")
    return options, asked


def main() -> None:
    options, ways = arguments(str(__doc__), ("sst2", "yelp"), tuple(WAYS), "0,1,2,3,4")
    if not options.table:
        for seed in map(int, options.seeds.split(",")):
            folder = options.out / f"seed{seed}"
            if not (folder / "test.csv").is_file():
                write_data(options.sst2, options.yelp, folder, seed)
            for way in ways:
                run(folder, way, seed)
    for line in table(options.out):
        print(line)


if __name__ == "__main__":
    main()
