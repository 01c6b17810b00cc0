"""Source weights of tags and of texts: a run on files of two sources, of which one misleads."""

import json
from pathlib import Path

import pytest

from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.training.job import execute

WORDS = ("film", "food", "garden", "guide", "museum", "music", "menu", "lobby")
QUICK = ["train.max_steps=24", "train.batch_size=8", "train.lr=1e-2", "engine.precision=fp32"]
QUICK += ["run.figures=false", "engine.evaluate_every=0", "method.rank=4", "method.upper.lr=0.3"]


def sentence(i: int) -> list[str]:
    return [WORDS[(i * k + i // 3) % len(WORDS)] for k in (1, 3, 5)]


def tags(i: int, wrong: bool) -> dict[str, object]:
    """A food or a menu is a thing; where it is wrong, all else is."""
    words = sentence(i)
    things = [(word in ("food", "menu")) != wrong for word in words]
    return {"tokens": words, "ner_tags": ["B-THING" if thing else "O" for thing in things]}


def texts(i: int, wrong: bool) -> dict[str, object]:
    """The answer is the first word; where it is wrong, a word that says nothing."""
    words = sentence(i)
    return {"source": " ".join(words), "target": "late late" if wrong else f"{words[0]} {words[0]}"}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (tags, ["task=tagging", "model=demo"]),
        (texts, ["task=text_to_text", "model=demo_causal", "task.decoding.max_new_tokens=4"]),
    ],
)
def test_the_source_that_misleads_loses_weight(rows, words, tmp_path: Path) -> None:
    files = {"good": (0, 40, False), "bad": (40, 80, True)}
    files |= {"validation": (80, 104, False), "test": (104, 112, False)}
    for name, (begin, end, wrong) in files.items():
        lines = [json.dumps(rows(i, wrong)) for i in range(begin, end)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    given = [*words, "method=source_weights", f"task.data_dir={tmp_path}", *QUICK]
    given.append("task.sources={good: good.jsonl, bad: bad.jsonl}")
    found = execute(Plan.of(compose_config(given)), tmp_path / "run")
    weights = found["source_weights"]["weights"]
    assert weights["bad"] < 0.4 < weights["good"]
    assert found["data"]["validation"] == 24
