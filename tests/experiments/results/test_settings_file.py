"""The settings that a run has found are an option of the group method, as Hydra reads it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from experiments.cli.messages import USER_ERRORS, sentence
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.results import settings_file
from problems.common import OptimizerSettings
from problems.lora import LoRA
from problems.lora_settings import FoundWith, ModuleSettings

QUERY = "bert.encoder.layer.0.attention.self.query"
FOUND = LoRA(
    rank=4,
    lora_alpha=8,
    optimizer=OptimizerSettings(weight_decay=0.3),
    settings=ModuleSettings(decay={QUERY: 0.003}, learning_rate={"head": 1.7}, temperature=1.2),
)


def plan(folder, *words):
    place = str(folder / settings_file.FOLDER)
    return Plan.of(compose_config([f"method={settings_file.NAME}", *words], place))


def test_method_lora_learned_is_what_was_found(tmp_path):
    path = settings_file.write(FOUND.given(), "minilm", 3e-3, 2.5, tmp_path)
    known = FoundWith(model="minilm", rank=4, lora_alpha=8.0, lr=3e-3)
    settings = replace(FOUND.settings, found_with=known)
    assert plan(tmp_path).method == replace(FOUND, settings=settings)
    assert plan(tmp_path, "method.rank=2").method.settings == settings
    assert "train.lr=0.003 train.epochs=2.5 " in path.read_text().splitlines()[0]


def test_a_slip_in_the_file_is_told(tmp_path):
    path = settings_file.write(FOUND.given(), "minilm", 5e-4, 3, tmp_path)
    for right, wrong, said in (
        ("0.003", "-1", r"method\.settings\.decay"),
        ("temperature", "temprature", r"temprature.*temperature"),
        (QUERY, "null", r"settings\.decay: None is no name"),
        (f"decay:\n    {QUERY}: 0.003", "decay: []", r"lora_learned: a list stands where names"),
        ("- lora", "- lora\n- /task: sst3", r"lora_learned: unknown task 'sst3'.*sst2"),
        ("- lora", "- lroa", r"lora_learned: its defaults name 'lroa'.*method="),
    ):
        text = path.read_text()
        assert right in text
        path.write_text(text.replace(right, wrong))
        with pytest.raises(USER_ERRORS) as told:
            plan(tmp_path)
        assert re.search(said, sentence(told.value))
        path.write_text(text)
