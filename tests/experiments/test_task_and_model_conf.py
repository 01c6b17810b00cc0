from pathlib import Path

import pytest
from omegaconf import OmegaConf

import conf
from bilevel.errors import UserError
from experiments.models import ModelSpec
from experiments.targets import build
from experiments.tasks.base import Task
from experiments.tasks.glue import GLUE

FOLDER = Path(conf.__file__).parent
TASKS = sorted((FOLDER / "task").glob("*.yaml"))
MODELS = sorted((FOLDER / "model").glob("*.yaml"))


def test_every_glue_task_has_its_file():
    others = {"demo", "classification", "planted", "text_to_text", "tagging", "jnlpba"}
    assert {path.stem for path in TASKS} == {*GLUE, *others}


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)
def test_task_files_build_their_task(path):
    node = OmegaConf.load(path)
    node = node.get("task", node)  # a task that names its usual model is one level deeper
    if path.stem in ("classification", "text_to_text", "tagging", "jnlpba"):
        with pytest.raises(UserError, match=r"task\.data_dir"):
            build(node, "task", Task)
        node.data_dir = "somewhere"
    if path.stem == "classification":
        node.text_columns = ["text"]
    task = build(node, "task", Task)
    assert isinstance(task, Task)
    assert task.name == path.stem


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_model_files_build_a_spec(path):
    spec = build(OmegaConf.load(path), "model", ModelSpec)
    assert isinstance(spec, ModelSpec)
    assert spec.name == path.stem
    without = ("demo", "demo_causal", "hub", "minilm", "planted")
    assert (spec.pretrained is None) == (path.stem in without)


@pytest.mark.parametrize("path", TASKS + MODELS, ids=lambda path: path.stem)
def test_files_begin_with_the_command_that_uses_them(path):
    comments = [line for line in path.read_text().splitlines() if line.startswith("# python -m")]
    choice = f"{path.parent.name}={path.stem}"
    assert any(choice in comment for comment in comments)
