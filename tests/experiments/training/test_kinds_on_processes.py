"""Two processes write the predictions of one, in its order, whatever is asked for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.models.batching import EXAMPLES
from tests.experiments import writers
from tests.experiments.asked import WORDS, choices, questions, written
from tests.experiments.processes import alike, in_float64, run
from tests.forked import on

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="forks, and is about CPUs")

TESTED = 2 * EXAMPLES + 3  # three batches for two processes, the last one a small one
LEARNED = [
    *("method=lora", "method.rank=2", "model=hub", "model.dropout=0", "train.max_steps=2"),
    *("train.lr=1e-2", "engine.precision=fp32", "engine.checkpoint_every=0"),
]


def texts(count: int, seed: int) -> list[dict[str, Any]]:
    """Words to be told backwards, none twice; of several lengths, which batches order."""
    rows = []
    for i in range(seed, seed + count):
        words = [f"w{(i // writers.WORDS**k) % writers.WORDS}" for k in range(2 + i % 5)]
        rows.append({"source": " ".join(words), "target": " ".join(reversed(words))})
    return rows


def sentences(count: int, seed: int) -> list[dict[str, Any]]:
    """Of several lengths, with a tag for each word, a number, and a set of labels."""
    rows = []
    for i in range(count):
        words = [WORDS[(7 * i + 3 * k + seed) % len(WORDS)] for k in range(2 + i % 5)]
        tags = ["B-A" if len(word) % 2 else "O" for word in words]
        both = [name for name, there in (("a", i % 2), ("b", i % 3)) if there]
        rows.append({"text": " ".join(words), "score": i % 5, "labels": both or ["a"]})
        rows[-1] |= {"tokens": words, "ner_tags": tags}
    return rows


WRITES = ["task=text_to_text", "task.decoding.max_new_tokens=6", "task.metrics=[bleu]"]
ONE_TEXT = ["task=classification", "task.text_columns=[text]"]
KINDS: dict[str, tuple[Callable[[int, int], list[dict[str, Any]]], list[str]]] = {
    "gpt2": (texts, [*WRITES, "task.decoding.beams=2"]),
    "bart": (texts, [*WRITES, "task.decoding.beams=1"]),
    "number": (sentences, [*ONE_TEXT, "task.label_column=score", "task.regression=true"]),
    "set": (sentences, [*ONE_TEXT, "task.label_column=labels", "task.multi_label=true"]),
    "tags": (sentences, ["task=tagging"]),
    "spans": (questions, ["task=question_answering", "task.max_length=12", "task.stride=4"]),
    "choices": (choices, ["task=multiple_choice"]),
}
QUICK = "tags"


def predicted(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "kind",
    [kind if kind == QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS],
)
def test_same_predictions_in_the_same_order(kind: str, tiny: Path, tmp_path: Path) -> None:
    rows, words = KINDS[kind]
    parts = {"train": rows(24, 0), "validation": rows(9, 1), "test": rows(TESTED, 2)}
    data = written(tmp_path / "data", **parts)
    model = writers.folder(tmp_path / "model", kind) if rows is texts else tiny
    words = [*LEARNED, *words, f"task.data_dir={data}", f"model.pretrained={model}"]
    with in_float64():
        one = run([*words, "train.batch_size=8"], tmp_path / "one")
        share = [*words, "train.batch_size=4"]
        first, second = on(2, lambda: run(share, tmp_path / "several"), timeout=300)
    assert first == second
    assert first["metrics"] == pytest.approx(one["metrics"], abs=1e-12)
    expected, found = predicted(tmp_path / "one"), predicted(tmp_path / "several")
    assert len(expected) == TESTED
    assert len({json.dumps(row) for row in expected}) > EXAMPLES  # an order would show
    for ours, theirs in zip(found, expected, strict=True):
        assert alike(ours, theirs, atol=2e-6), (ours, theirs)  # they are written to 1e-6
