"""Rows a second of predictions, beside a bare loop over transformers.pipeline, and peak memory.

    python -m benchmarks.predict_speed [--run DIR] [--rows 2000 20000] [--rounds 3] [--batch 32]

Sentences of the demo language, of one to a few clauses, by a finished run (without one, LoRA is
trained on the built-in model for some seconds). Both read a csv file and write one, in one thread,
fp32, at the same batch size; the pipeline gets the merged model, which spares it the adapter. The
table of speed is of processor time without the loading of the model, round after round in one
process, with the median of each round's ratio. The table of memory is of the whole program in a
process of its own for each number of rows.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

COLUMN = "text"


def write_rows(path: Path, count: int, seed: int = 0) -> None:
    """A csv file of sentences, of lengths as texts have them: most short, a few long."""
    from experiments.tasks.made_up.grammar import labelled

    draw = random.Random(seed)
    clauses = [text for text, _ in labelled(5000, seed)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", COLUMN])
        for number in range(count):
            parts = draw.choices((1, 2, 3), (6, 3, 1))[0]
            writer.writerow([number, " and ".join(draw.choice(clauses) for _ in range(parts))])


def trained(folder: Path) -> Path:
    """A short run of LoRA on the built-in model."""
    command = [sys.executable, "-m", "experiments.run", "method=lora", "task=demo"]
    command += ["train.max_steps=20", "run.figures=false", f"hydra.run.dir={folder}"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def ours(run: Path, batch: int) -> Callable[[Path, Path], None]:
    """The program, with a model that is loaded once."""
    from experiments import predict
    from experiments.predicting.saved import Asking

    load, kept = Asking.load, {}

    def once(self: Asking) -> object:
        if "model" not in kept:
            kept["model"] = load(self)
        return kept["model"]

    Asking.load = once  # type: ignore[method-assign, assignment]

    def predicted(data: Path, out: Path) -> None:
        predict.main([f"run={run}", f"data={data}", f"out={out}", f"batch_size={batch}"])

    return predicted


def bare(run: Path, batch: int) -> Callable[[Path, Path], None]:
    """What people write: a pipeline over the rows of a file, line by line."""
    from peft import PeftModel
    from transformers import pipeline

    import experiments
    from experiments.predicting.asked import RunAsker

    tuned = experiments.load(run)
    model = tuned.model.merge_and_unload() if isinstance(tuned.model, PeftModel) else tuned.model
    assert isinstance(tuned.asker, RunAsker)
    tokenizer = tuned.asker.predictor.tokenizer
    make: Any = pipeline  # whose overloads know no PEFT model
    pipe = make("text-classification", model=model, tokenizer=tokenizer, device="cpu", top_k=None)

    def predicted(data: Path, out: Path) -> None:
        def texts() -> Iterator[str]:
            with data.open(encoding="utf-8", newline="") as file:
                yield from (row[COLUMN] for row in csv.DictReader(file))

        with (
            out.open("w", encoding="utf-8", newline="") as written,
            data.open(encoding="utf-8", newline="") as file,
        ):
            writer = csv.writer(written)
            rows = csv.DictReader(file)
            for row, said in zip(
                rows, pipe(texts(), batch_size=batch, truncation=True), strict=True
            ):
                best = max(said, key=lambda one: one["score"])
                scores = {one["label"]: one["score"] for one in said}
                writer.writerow([*row.values(), best["label"], *scores.values()])

    return predicted


def speed(run: Path, rows: int, rounds: int, batch: int) -> None:
    """Rows a second by processor time, in turn."""
    torch.set_num_threads(1)
    candidates = {"ours": ours(run, batch), "pipeline": bare(run, batch)}
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch, "data.csv")
        for number in range(rounds + 1):
            write_rows(data, 200 if number == 0 else rows, number)
            for name, predicted in candidates.items():
                out = Path(scratch, f"{name}.csv")
                out.unlink(missing_ok=True)
                start = time.process_time()
                predicted(data, out)
                if number:  # the first is a warm-up
                    seconds[name].append(time.process_time() - start)
    print(f"\n{rows:,} rows, batches of {batch}, torch {torch.__version__}, one thread")
    print("| | rows a second | pipeline's time |")
    print("|---|---|---|")
    for name in candidates:
        ratio = statistics.median(
            a / b for a, b in zip(seconds[name], seconds["pipeline"], strict=True)
        )
        print(f"| {name} | {rows / statistics.median(seconds[name]):.0f} | {ratio:.2f} |")


def peak(run: Path, rows: int, batch: int) -> float:
    """Peak MiB of the program in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        write_rows(Path(scratch, "data.csv"), rows)
        command = [sys.executable, "-m", "benchmarks.predict_speed", "--child", scratch]
        command += ["--run", str(run), "--batch", str(batch)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(json.loads(output.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=None, help="a finished run of one text a row")
    parser.add_argument("--rows", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--rounds", type=int, default=3, help="0: memory alone")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--child", type=Path, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        from experiments import predict

        words = [f"run={options.run}", f"data={options.child / 'data.csv'}"]
        predict.main([*words, f"out={options.child / 'o.csv'}", f"batch_size={options.batch}"])
        import resource  # of Unix alone

        print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
        return
    with tempfile.TemporaryDirectory() as scratch:
        run = options.run or trained(Path(scratch, "run"))
        if options.rounds:
            speed(run, options.rows[0], options.rounds, options.batch)
        peaks = [peak(run, rows, options.batch) for rows in options.rows]
    print("\npeak MiB of the whole program")
    print("| rows | " + " | ".join(f"{rows:,}" for rows in options.rows) + " | last / first |")
    print("|---" * (len(options.rows) + 2) + "|")
    cells = " | ".join(f"{mib:.0f}" for mib in peaks)
    print(f"| | {cells} | {peaks[-1] / peaks[0]:.2f} |")


if __name__ == "__main__":
    main()
