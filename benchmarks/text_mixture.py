"""Hold learned source weights against their competitors on E2E with WebNLG and a broken source.

    python -m benchmarks.text_mixture --e2e DIR --webnlg DIR --dart DIR --out DIR [--seeds 0,1]
    python -m benchmarks.text_mixture --out DIR --table

Three sources of 600 pairs each: ``e2e`` (a meaning and a text that says it), ``shuffled`` (E2E's
texts under other meanings) and ``webnlg`` (another domain, in another notation). D_val is 100 other
pairs of E2E's training file; the test set has each meaning of E2E's own test file once. Both
are drawn by each seed, no meaning twice. The score is the loss of the text, a token.

The base is a GPT-2 of three layers and 192 numbers a token, trained here on what DART's validation
and test files (triples and texts) have of other data than E2E, since no language model of English
comes with the project: these are not the figures of one that people use. What is there already is
not run again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from benchmarks.source_mixture import ALONE, arguments, table
from experiments.tasks.reading.triples import linearised

SOURCES = ("e2e", "shuffled", "webnlg")
SIZE, TRUSTED, TESTED = 600, 100, 500
VOCABULARY, POSITIONS, END = 2000, 256, "<|endoftext|>"
EPOCHS, BASE_EPOCHS, HELD = 5, 6, 300
LR, BASE_LR = 3e-3, 1e-3
WAYS = {
    "pooled": ("method=lora",),
    "trusted": ALONE,
    "e2e": ("method=lora", "task.keep_sources=[e2e]"),
    "source_weights": ("method=source_weights",),
    "under_weights": ("method=lora",),
}
# 15 of one source are as many steps as 5 of three.
PASSES = {"trusted": 20, "e2e": 15}


def program(*words: str) -> None:
    """One run of texts, whose loss counts: nothing is written word by word."""
    given = [*words, "task=text_to_text", "task.source_column=given", "task.target_column=text"]
    given += ["task.decoding.beams=1", "task.decoding.max_new_tokens=2", "train.batch_size=16"]
    given += ["engine.checkpoint_every=0", "run.figures=false"]
    subprocess.run([sys.executable, "-m", "experiments.run", *given], check=True)


def make_base(dart: Path, folder: Path) -> Path:
    """The base model, trained in full."""
    start, out = folder / "start", folder / "trained"
    if (out / "result.json").is_file():
        return out / "model"
    rows = [
        {"given": linearised([tuple(t) for t in row.tripleset]), "text": row.references[0]}
        for name in ("test", "validation")
        for row in pd.read_parquet(dart / f"{name}.parquet").itertuples()
        if "e2e" not in row.sources
    ]
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in {"train": rows[HELD:], "validation": rows[:HELD]}.items():
        _write(pd.DataFrame(part), folder / f"{name}.jsonl")
    letters = pre_tokenizers.ByteLevel.alphabet()
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END], initial_alphabet=letters
    )
    words.train_from_iterator((text for row in rows for text in row.values()), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token=END, bos_token=END, pad_token=END
    )
    fast.save_pretrained(start)
    torch.manual_seed(0)
    sizes = {"n_layer": 3, "n_embd": 192, "n_head": 4, "n_positions": POSITIONS}
    config = GPT2Config(vocab_size=len(fast), bos_token_id=0, eos_token_id=0, **sizes)
    GPT2LMHeadModel(config).save_pretrained(start)
    program(
        *("method=full", f"method.optimizer.lr={BASE_LR}", f"train.epochs={BASE_EPOCHS}"),
        *("model=hub", f"model.pretrained={start.resolve()}", "engine.evaluate_every=0"),
        *(f"task.data_dir={folder.resolve()}", f"hydra.run.dir={out.resolve()}"),
    )
    return out / "model"


def write_data(e2e: Path, webnlg: Path, folder: Path, seed: int) -> None:
    """The three sources, D_val and the test set, as JSON lines of given and text."""
    random = np.random.default_rng(seed)
    names = {"meaning_representation": "given", "human_reference": "text"}

    def meanings(name: str) -> pd.DataFrame:
        rows = pd.read_parquet(e2e / f"{name}.parquet").rename(columns=names)
        return rows.sample(frac=1, random_state=seed).drop_duplicates("given")[["given", "text"]]

    test = meanings("test")[:TESTED]
    drawn = meanings("train")
    drawn = drawn[~drawn.given.isin(test.given)][: 2 * SIZE + TRUSTED]
    entries = pd.read_parquet(webnlg / "train.parquet").sample(SIZE, random_state=seed)
    shuffled = drawn[SIZE : 2 * SIZE].copy()
    shuffled["text"] = random.permutation(shuffled.text.to_numpy())
    parts = {
        "e2e": drawn[:SIZE],
        "shuffled": shuffled,
        "webnlg": pd.DataFrame(
            {
                "given": [
                    linearised([tuple(part.strip() for part in t.split("|")) for t in triples])
                    for triples in entries.triples
                ],
                "text": [references[0] for references in entries.references],
            }
        ),
        "validation": drawn[2 * SIZE :],
        "test": test,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        _write(part, folder / f"{name}.jsonl")


def _write(rows: pd.DataFrame, path: Path) -> None:
    rows.to_json(path, orient="records", lines=True)


def run(folder: Path, base: Path, way: str, seed: int) -> None:
    """Train one way, unless it is done."""
    out = folder / way
    if (out / "result.json").is_file():
        return
    files = ", ".join(f"{name}: {name}.jsonl" for name in SOURCES)
    given = [word.replace(".csv", ".jsonl") for word in WAYS[way]]
    given += ["model=hub", f"model.pretrained={base.resolve()}", f"train.lr={LR}", f"seed={seed}"]
    given += [f"task.data_dir={folder.resolve()}", f"hydra.run.dir={out.resolve()}"]
    given.append(f"train.epochs={PASSES.get(way, EPOCHS)}")
    if WAYS[way] is not ALONE:
        given.append(f"task.sources={{{files}}}")
    if way == "under_weights":
        weights = folder / "source_weights" / "source_weights.json"
        given.append(f"task.source_weights={weights.resolve()}")
    program(*given)


def losses(out: Path) -> np.ndarray:
    """Each test text's part of the loss a token: their mean is the loss."""
    lines = (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    terms = np.array([row["terms"] for row in rows], dtype=float)
    return np.array([row["loss"] for row in rows]) * terms / terms.mean()


def main() -> Iterator[str]:
    data = ("e2e", "webnlg", "dart")
    options, ways = arguments(str(__doc__), data, tuple(WAYS), "0,1")
    if not options.table:
        base = make_base(options.dart, options.out / "base")
        for seed in map(int, options.seeds.split(",")):
            folder = options.out / f"seed{seed}"
            if not (folder / "test.jsonl").is_file():
                write_data(options.e2e, options.webnlg, folder, seed)
            for way in ways:
                run(folder, base, way, seed)
    yield from table(options.out, tuple(WAYS), {"test loss": losses})


if __name__ == "__main__":
    for line in main():
        print(line)
