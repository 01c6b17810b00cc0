"""Memory and processor time until the first evaluation on a jsonl file of many rows.

    python -m benchmarks.large_data [--rows 1000000] [--model minilm] [--folder DIR] [--in-memory]

The file is generated: texts of 8 to 32 words (about 125 bytes a row) and two labels. The runs of
``method=lora`` are processes of their own, two steps each: one that tokenises, one that finds the
tokens in the cache, and one that streams (``task.streaming=true``); with ``--in-memory`` one more
that holds all in memory. Peak resident memory counts the pages of mapped files too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TEXT = (
    "the a this film book story plot actor music was is felt seemed good bad great awful dull "
    "bright slow quick long short and but or very rather quite not never always often with without "
    "in on of to from by for at"
)
WORDS = TEXT.split()
STEPS = 2
KINDS = {
    "made": ["engine.cache_from=50000"],
    "found": ["engine.cache_from=50000"],
    "streamed": ["task.streaming=true"],
    "in memory": ["engine.cache_from=null"],
}


def write_rows(path: Path, count: int, seed: int) -> None:
    draw = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            text = " ".join(draw.choices(WORDS, k=draw.randint(8, 32)))
            file.write(json.dumps({"text": text, "label": draw.choice(["neg", "pos"])}) + "\n")


def measured(words: list[str], folder: Path) -> None:
    """One run in this process; prints what it took until its first evaluation."""
    import resource

    from bilevel import Callback
    from bilevel.protocols import EngineView
    from experiments.config.composition import compose_config
    from experiments.config.plan import Plan
    from experiments.training.job import execute

    class Peak(Callback):
        def on_step_end(self, engine: EngineView) -> None:
            if engine.global_step == STEPS:  # the first evaluation comes now
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                mib = peak / (2**20 if sys.platform == "darwin" else 2**10)
                print(json.dumps({"peak": mib, "processor": time.process_time()}), flush=True)
                os._exit(0)  # what comes after is not what is measured

    execute(Plan.of(compose_config(words)), folder, callbacks=[Peak()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--folder", type=Path, help="of files and cache; kept")
    parser.add_argument("--only", choices=list(KINDS), help="one of the runs")
    parser.add_argument("--in-memory", action="store_true")
    parser.add_argument("--run", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        folder, *words = options.run
        measured(words, Path(folder))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        data = folder / f"rows-{options.rows}"
        if not data.is_dir():
            data.mkdir(parents=True)
            write_rows(data / "test.jsonl", 200, 1)
            write_rows(data / "train.jsonl", options.rows, 0)
        kinds = [kind for kind in KINDS if options.in_memory or kind != "in memory"]
        for kind in [options.only] if options.only else kinds:
            words = [
                *("method=lora", "task=classification", f"task.data_dir={data}"),
                *("task.text_columns=[text]", f"model={options.model}", "run.figures=false"),
                *(f"train.max_steps={STEPS}", f"engine.cache_dir={folder / 'cache'}"),
                *("engine.evaluate_every=0", "engine.checkpoint_every=0", *KINDS[kind]),
            ]
            place = tempfile.mkdtemp(dir=scratch)
            command = [sys.executable, "-m", "benchmarks.large_data", "--run", place, *words]
            found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            values = json.loads(found.stdout.splitlines()[-1])
            print(
                f"{kind:10} {options.rows:>9,} rows: {values['peak']:6.0f} MiB at most and "
                f"{values['processor']:5.0f} s of the processor before the first evaluation",
                flush=True,
            )


if __name__ == "__main__":
    main()
