"""The pages' code does what the pages say."""

import importlib
import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset, DatasetDict

import experiments.demo
from bilevel import UserError
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from tests.bilevel.toys import Spy, flat, relative_error, two_levels

ROOT = Path(__file__).parent.parent
DEMO = Path(experiments.demo.__file__).parent / "model"


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page that are in a language."""
    parts = re.split(r"^```(.*)\n", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
    # text, opening word, block, (closing) "", text, ...
    return [parts[i + 1] for i in range(1, len(parts) - 1, 4) if parts[i] == language]


PAGES = {  # page -> its example's module, and its configuration
    "docs/add_a_method.md": ("learned_decay.py", "method/learned_decay.yaml"),
    "docs/add_a_task.md": ("fasttext_files.py", "task/fasttext.yaml"),
    "docs/add_an_estimator.md": ("fisher.py", "hypergradient/fisher.yaml"),
}


@pytest.mark.parametrize("page", PAGES)
def test_the_page_shows_the_example_as_it_is(page):
    module, config = PAGES[page]
    assert blocks(page, "python") == [(ROOT / "examples" / module).read_text()]
    assert blocks(page, "yaml") == [(ROOT / "examples" / config).read_text()]


def test_a_method_is_short():
    files = PAGES["docs/add_a_method.md"]
    assert sum(len((ROOT / "examples" / file).read_text().splitlines()) for file in files) <= 60


@pytest.fixture
def run(monkeypatch):
    """Runs the n-th command of a page, with more words, in the folder that the pages speak of."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", sys.argv[:1])
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(page, number, *more):
        commands = [line for block in blocks(page, "") for line in block.splitlines()]
        python, flag, module, *words = shlex.split(commands[number])
        assert (python, flag) == ("python", "-m")
        importlib.import_module(module).main([*words, *more])

    return run


SHORT = ["train.epochs=2", "run.figures=false", "engine.evaluate_every=0"]


def test_the_method_runs_as_the_page_says(run, tmp_path):
    few = ["task.max_train=80", "task.max_test=40"]
    run("docs/add_a_method.md", 0, *SHORT, *few, f"hydra.run.dir={tmp_path}")
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["method"], result["hypergradient"]["name"]) == ("learned_decay", "unrolled")
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    first, *_, last = (x for x in lines if x["kind"] == "watch")
    decays = {k for k in first if k.startswith("decay_")}
    assert len(decays) == 8
    assert all(first[k] != last[k] for k in decays)  # by the hypergradient alone


def test_the_task_runs_as_the_page_says(run, tmp_path, capsys):
    run("docs/add_a_task.md", 0, *SHORT, "task.max_train=96", f"hydra.run.dir={tmp_path}")
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["task"], result["data"]["test"]) == ("fasttext", 120)
    assert result["labels"] == ["mixed", "negative", "positive"]
    assert result["data"]["train"] + result["data"]["validation"] == 96
    assert set(result["metrics"]) == {"accuracy", "macro_f1"}
    (answer,) = experiments.load(tmp_path, config_dir=ROOT / "examples").predict(["so cosy"])
    assert answer["prediction"] in result["labels"]
    run("docs/add_a_task.md", 1)
    assert "task.max_length=128" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        ("__label__a x\n__label__b y\n", "__label__c z\n", r"test\.txt.*'c'"),
        ("__label__a x\n", "__label__a z\n", "two classes"),
        ("__label__a x\n\na y\n", "__label__a z\n", r"line 3 of .*train\.txt"),
        ("__label__a __label__b x\n", "", "line 1"),
        ("__label__a x\n__label__b y\n", "\n", r"test\.txt"),
        ("\ufeff__label__a x\n__label__b y\n", "__label__c z\n", r"test\.txt.*'c'"),
    ],
)
def test_the_task_names_a_wrong_line(tmp_path, train, test, said):
    (tmp_path / "train.txt").write_text(train)
    (tmp_path / "test.txt").write_text(test)
    task = example("fasttext_files").FastTextFiles(data_dir=str(tmp_path))
    with pytest.raises(UserError, match=said):
        task.load()


def example(name):
    """A module of ``examples``."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_estimator_runs_as_the_page_says(run, tmp_path, capsys):
    few = ["task.max_train=80", "task.max_test=40"]
    run("docs/add_an_estimator.md", 0, "task.max_train=80", "steps=2", "batches=1")
    assert re.search(r"^fisher +-?\d", capsys.readouterr().out, flags=re.MULTILINE)
    run("docs/add_an_estimator.md", 1, *SHORT, *few, f"hydra.run.dir={tmp_path}")
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["hypergradient"] == {"name": "fisher", "damping": 0.1}
    run("docs/add_an_estimator.md", 2)
    assert "hypergradient.damping=0.1" in capsys.readouterr().out


@pytest.mark.parametrize("damping", [3.0, 0.3])
def test_the_estimator_solves_with_its_hessian(damping):
    """Against g g^T + damping I written out, torch's own solver and double backward."""
    errors = []

    def look(vector, lower, upper, found):
        step = lower.recorded.last
        leaves = [w.clone().requires_grad_() for w in step.weights]
        with lower.slots.holding(leaves):
            loss = lower.objective(lower.cur_batch)
            gradient = torch.cat(
                [g.flatten() for g in torch.autograd.grad(loss, leaves, create_graph=True)]
            )
            g = gradient.detach()
            damped = torch.outer(g, g) + damping * torch.eye(len(g), dtype=g.dtype)
            solution = torch.linalg.solve(damped, flat(vector))
            mixed = torch.autograd.grad(gradient @ solution, upper.trainable_parameters())
        errors.append(relative_error(flat(found), -flat(mixed)))

    engine, *_ = two_levels(Spy(example("fisher").Fisher(damping=damping), look), steps=3)
    engine.run()
    assert len(errors) == 3
    assert max(errors) < 1e-4  # what a central difference of length 0.01 leaves


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
    assert set(scope["found"].config.rank_pattern.values()) <= set(range(1, 9))


def test_the_readme_says_the_same(offline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = (b for b in blocks("README.md", "python") if "finetune(" in b)
    block = block.replace("epochs=3", "max_steps=2").replace('"roberta-base"', repr(str(DEMO)))
    scope: dict = {}
    exec(compile(block, "README.md", "exec"), scope)
    assert scope["run"].result["ranks"]
