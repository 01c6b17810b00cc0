"""A finished run of each kind of task, and its test's rows without their answers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.tasks.demo import Demo
from experiments.training.job import execute
from tests.experiments import writers

QUICK = [
    *("train.batch_size=4", "train.max_steps=2", "train.lr=1e-2", "engine.precision=fp32"),
    *("method=lora", "method.rank=2", "run.figures=false", "engine.checkpoint_every=0"),
]
NAMES = ("so so", "bad", "good")  # not in the order of their numbers
TESTED = 20


class Kind(NamedTuple):
    """A run, and what it is asked.

    Attributes:
        run: its folder.
        asked: the rows of its test, without their answers.
        told: what its predictions.jsonl says of each.
        result: its result.json.
    """

    run: Path
    asked: list[dict[str, Any]]
    told: list[dict[str, Any]]
    result: dict[str, Any]


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Texts of different lengths, of words that the small model knows."""
    return sorted({example.texts[0] for example in Demo(max_train=300).load().train}, key=hash_of)


def hash_of(text: str) -> int:
    """A number that is the same in every process."""
    return sum(ord(c) * (i + 7) for i, c in enumerate(text)) % 9973


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="session")
def kinds(
    tiny: Path, texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Kind]:
    """From the name of a kind to a run of it, which is trained when it is first asked for."""
    made: dict[str, Kind] = {}
    own = [f"model.pretrained={tiny}", "task=classification", "task.label_column=y"]

    def answered(i: int) -> dict[str, dict[str, Any]]:
        words = [f"w{(i + k * (1 + i // 12)) % writers.WORDS}" for k in range(3 + i % 4)]
        sentence = texts[i].split()
        source = {"source": " ".join(words), "target": " ".join(reversed(words))}
        return {
            "classes": {"n": i, "text": texts[i], "y": NAMES[i % 3]},
            "pairs": {"a": texts[i], "b": texts[-i - 1], "y": i % 2},
            "number": {"text": texts[i], "y": i / 10},
            "labels": {"text": texts[i], "y": ["x", "y z"][: i % 3]},
            "tags": {"tokens": sentence, "ner_tags": ["B-A", "O"] * (len(sentence) // 2)},
            "gpt2": source,
            "bart": source,
        }

    options = {
        "classes": [*own, "task.text_columns=[text]"],
        "pairs": [*own, "task.text_columns=[a,b]"],
        "number": [*own, "task.text_columns=[text]", "task.regression=true"],
        "labels": [*own, "task.text_columns=[text]", "task.multi_label=true"],
        "tags": [f"model.pretrained={tiny}", "task=tagging"],
        **{
            kind: ["task=text_to_text", "task.decoding.max_new_tokens=6", "task.decoding.beams=2"]
            for kind in ("gpt2", "bart")
        },
    }
    answers = ("y", "ner_tags", "target")

    def make(kind: str) -> Kind:
        folder = tmp_path_factory.mktemp(kind)
        rows = [answered(i)[kind] for i in range(2 * TESTED)]
        for row in rows:
            if kind == "tags":
                row["ner_tags"] += ["O"] * (len(row["tokens"]) - len(row["ner_tags"]))
        (folder / "train.jsonl").write_text(lines(rows[TESTED:]))
        (folder / "test.jsonl").write_text(lines(rows[:TESTED]))
        words = [*options[kind], f"task.data_dir={folder}", "model=hub", *QUICK]
        if kind in ("gpt2", "bart"):
            words.append(f"model.pretrained={writers.folder(folder / 'model', kind)}")
        result = execute(Plan.of(compose_config(words)), folder / "run")
        # Whatever predicts has no need of them.
        (folder / "train.jsonl").unlink()
        (folder / "test.jsonl").unlink()
        told = (folder / "run" / "predictions.jsonl").read_text().splitlines()
        asked = [{k: v for k, v in row.items() if k not in answers} for row in rows[:TESTED]]
        return Kind(folder / "run", asked, [json.loads(line) for line in told], result)

    def of(kind: str) -> Kind:
        if kind not in made:
            made[kind] = make(kind)
        return made[kind]

    return of
