"""The YAML files of tasks and models: each builds what its name says."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

import conf
from bilevel.errors import UserError
from experiments.config.composition import compose_config
from experiments.config.instantiate import build
from experiments.models.spec import ModelSpec
from experiments.tasks.glue import GLUE
from experiments.tasks.task import Task

FOLDER = Path(conf.__file__).parent
TASKS = sorted((FOLDER / "task").glob("*.yaml"))
WRITING = {  # tasks of written text -> the papers' usual model
    "text_to_text": None,
    "e2e": "gpt2-medium",
    "webnlg": "gpt2-medium",
    "dart": "gpt2-medium",
    "xsum": "bart-large",
    "instructions": "llama-7b",
    "demo_generation": "demo_causal",
}
MODELS = sorted((FOLDER / "model").glob("*.yaml"))


def test_every_glue_task_has_its_file():
    others = {"demo", "demo_tagging", "classification", "planted", "tagging", "jnlpba", "gyafc"}
    others |= {"demo_noisy", "demo_sources", *WRITING}
    others |= {"planted_decay", "planted_deep", "planted_faint", "planted_noisy"}
    others |= {"question_answering", "multiple_choice", "swag", "race"}
    assert {path.stem for path in TASKS} == {*GLUE, *others}


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)
def test_task_files_build_their_task(path):
    node = OmegaConf.load(path)
    node = node.get("task", node)  # a task that names its usual model is one level deeper
    local = (
        "classification",
        "text_to_text",
        "tagging",
        "jnlpba",
        "gyafc",
        "webnlg",
        "dart",
        "instructions",
        "question_answering",
        "multiple_choice",
        "swag",
        "race",
    )
    if path.stem in local:
        with pytest.raises(UserError, match=r"task\.data_dir"):
            build(node, "task", Task)
        node.data_dir = "somewhere"
    if path.stem == "classification":
        node.text_columns = ["text"]
    task = build(node, "task", Task)
    assert isinstance(task, Task)
    assert task.name == path.stem


@pytest.mark.parametrize("task", [task for task, model in WRITING.items() if model])
def test_a_task_of_written_text_names_its_papers_model(task):
    assert compose_config([f"task={task}"]).model.name == WRITING[task]
    assert compose_config([f"task={task}", "model=gpt2"]).model.name == "gpt2"


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
