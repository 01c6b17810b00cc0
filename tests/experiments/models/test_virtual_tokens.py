"""Texts beside an adapter's own tokens: longer ones than the trained are cut wherever scored."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments import evaluate
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.models.virtual_tokens import leaving
from experiments.tasks.demo import Demo
from experiments.training.job import execute

EXAMPLES = Demo(max_train=48, max_test=8).load()


def write(folder: Path) -> Path:
    """Short texts to train on, long ones to test on."""
    splits = {"train": EXAMPLES.train, "validation": EXAMPLES.train[:6]}
    for split, examples in {**splits, "test": EXAMPLES.tests["test"]}.items():
        rows = [
            {
                "text": " ".join(e.texts[0].split()[:6] * (1 if split == "train" else 12)),
                "label": e.label,
            }
            for e in examples
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_long_test_texts_are_cut_alike_in_the_run_and_again(
    method: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model has 48 positions, of which 4 are the method's."""
    words = ["task=classification", "task.text_columns=[text]", f"task.data_dir={write(tmp_path)}"]
    words += ["model=hub", f"model.pretrained={tiny}", f"method={method}"]
    words += ["method.virtual_tokens=4", "train.max_steps=1", "run.figures=false"]
    result = execute(Plan.of(compose_config(words)), tmp_path / "run")
    evaluate.main([f"run={tmp_path / 'run'}"])
    said = capsys.readouterr().out
    assert re.search(r"loss +(\S+) +\(its result.json says \1\)", said)
    assert f"{result['test_loss']:.4f}" in said
    assert "max_length=44" in (tmp_path / "run" / "adapter" / "README.md").read_text()


@pytest.mark.parametrize(
    ("virtual", "limit", "left"),
    [(4, 48, 44), (4, 80, 48), (0, 48, 48), (4, None, 48), (50, 48, 1)],
)
def test_a_tokenizer_cuts_no_earlier_than_it_must(
    virtual: int, limit: int | None, left: int
) -> None:
    shared = SimpleNamespace(model_max_length=48)
    assert leaving(shared, virtual, limit).model_max_length == left
    assert shared.model_max_length == 48
