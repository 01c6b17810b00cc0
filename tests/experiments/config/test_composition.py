"""A configuration as plain values, which a run remembers in a file."""

import json
from pathlib import Path

import pytest
from hydra.errors import HydraException

from bilevel import UserError
from experiments.cli.messages import sentence
from experiments.config.composition import compose_config, plain
from experiments.config.plan import Plan
from experiments.training.finished_stages import Journal
from problems.lora import LoRA

NUMBERED = {
    "sources": ["task=classification", "task.sources={2: a.csv, 10: b.csv, web: c.csv}"],
    "classes": ["train.class_weights={2: 1, 10: 4}"],
    "some classes": ["train.class_weights={2: 1, neg: 4}"],
}


@pytest.mark.parametrize("which", NUMBERED)
def test_names_that_are_numbers_are_read_back_as_they_were(which: str, tmp_path: Path) -> None:
    """A source, or a class, may be called 10, which YAML reads as a number and JSON does not."""
    values = plain(compose_config(NUMBERED[which]))
    assert json.loads(json.dumps(values)) == values
    Journal(tmp_path / "checkpoints" / "stages.json", values, resume=False)
    again = Journal(tmp_path / "checkpoints" / "stages.json", values, resume=True)
    assert again.finished == {}


MODULE = "bert.encoder.layer.0.attention.self.query"


@pytest.mark.parametrize(
    "words",
    [
        [f"method.settings.decay={{{MODULE}: 0.1, head: 2}}"],
        [f"method.settings={{decay: {{{MODULE}: 0.1, head: 2}}}}"],
        [f"+method.settings.decay={{{MODULE}: 0.1}}", "method.settings.decay.head=2"],
    ],
)
def test_settings_of_modules_are_given_like_other_options(words: list[str]) -> None:
    method = Plan.of(compose_config(["task=demo", "method=lora", *words])).method
    assert isinstance(method, LoRA)
    assert method.settings.decay == {MODULE: 0.1, "head": 2.0}


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("decay={a.query: -1}", r"decay\.a\.query=-1.*0 or more"),
        ("learning_rate={head: 0}", r"learning_rate\.head=0.*more than 0"),
        ("dropout={a: 1}", r"dropout\.a=1.*\[0.*, 1\)"),
        ("dropout=0.3", r"dropout=0\.3.*names with their values.*each a number"),
    ],
)
def test_the_one_of_a_mapping_that_is_wrong_is_told(word: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Plan.of(compose_config(["task=demo", "method=lora", f"method.settings.{word}"]))


def test_a_list_in_the_place_of_a_mapping_is_told() -> None:
    with pytest.raises(HydraException) as found:
        compose_config(["task=demo", "method=lora", "method.settings.dropout=[0.3]"])
    assert "method.settings.dropout=[0.3]: these are names with" in sentence(found.value)


@pytest.mark.parametrize(
    "text",
    [
        'settings: !!python/object/apply:os.mkdir ["{place}"]',
        "settings: {{decay",
        "\x00",
    ],
)
def test_a_file_that_is_no_plain_yaml_is_told(text: str, tmp_path: Path) -> None:
    """As one of learned settings that somebody else has made: nothing in it is called."""
    (tmp_path / "method").mkdir()
    place = tmp_path / "made"
    said = f"defaults: [lora]\n{text.format(place=place)}\n"
    (tmp_path / "method" / "lora_learned.yaml").write_text(said)
    with pytest.raises(UserError, match=r"method/lora_learned.*no YAML"):
        compose_config(["method=lora_learned"], str(tmp_path))
    assert not place.exists()
