"""The pages' code does what the pages say."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

import experiments.demo
from experiments import run as program
from experiments.config.composition import compose_config
from experiments.config.plan import Plan

ROOT = Path(__file__).parent.parent
DEMO = Path(experiments.demo.__file__).parent / "model"


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page that are in a language."""
    parts = re.split(r"^```(.*)\n", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
    # text, opening word, block, (closing) "", text, ...
    return [parts[i + 1] for i in range(1, len(parts) - 1, 4) if parts[i] == language]


def test_the_page_shows_the_example_as_it_is():
    (code,) = blocks("docs/add_a_method.md", "python")
    (config,) = blocks("docs/add_a_method.md", "yaml")
    assert code == (ROOT / "examples/learned_decay.py").read_text()
    assert config == (ROOT / "examples/method/learned_decay.yaml").read_text()
    assert len((code + config).splitlines()) <= 60


def test_the_example_runs_as_the_page_says(tmp_path, monkeypatch):
    command, _ = blocks("docs/add_a_method.md", "")
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "experiments.run"]
    monkeypatch.chdir(ROOT)  # the page's folder names are relative to it
    monkeypatch.setattr(sys, "argv", sys.argv[:1])
    monkeypatch.setattr(sys, "path", list(sys.path))
    short = ["task.max_train=80", "task.max_test=40", "train.epochs=2", "run.figures=false"]
    program.main([*words[3:], *short, f"hydra.run.dir={tmp_path}"])
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["method"], result["hypergradient"]["name"]) == ("learned_decay", "unrolled")
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    first, *_, last = (x for x in lines if x["kind"] == "watch")
    decays = {k for k in first if k.startswith("decay_")}
    assert len(decays) == 8
    assert all(first[k] != last[k] for k in decays)  # by the hypergradient alone


@pytest.fixture
def offline(monkeypatch):
    """The hub's model and data set, played by the demo's."""
    task = Plan.of(compose_config(["task.max_train=40", "task.max_test=16"])).task.load()
    unlabelled = [e._replace(label=-1) for e in task.tests["test"]]
    rows = {"train": task.train, "validation": task.tests["test"], "test": unlabelled}
    data = DatasetDict(
        {
            split: Dataset.from_list([{"sentence": e.texts[0], "label": e.label} for e in examples])
            for split, examples in rows.items()
        }
    )
    monkeypatch.setattr("datasets.load_dataset", lambda *names: data)


def test_the_python_page(offline, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    first, second = (
        block.replace("epochs=3", "max_steps=2") for block in blocks("docs/python.md", "python")
    )
    first = first.replace('"roberta-base"', repr(str(DEMO)))
    scope: dict = {}
    exec(compile(first, "docs/python.md", "exec"), scope)
    assert (tmp_path / "outputs" / "mine" / "adapter" / "adapter_config.json").is_file()
    assert "accuracy" in capsys.readouterr().out
    exec(compile(second, "docs/python.md", "exec"), scope)
    assert set(scope["config"].rank_pattern.values()) <= set(range(1, 9))


def test_the_readme_says_the_same(offline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = (b for b in blocks("README.md", "python") if "finetune(" in b)
    block = block.replace("epochs=3", "max_steps=2").replace('"roberta-base"', repr(str(DEMO)))
    scope: dict = {}
    exec(compile(block, "README.md", "exec"), scope)
    assert scope["run"].result["ranks"]
