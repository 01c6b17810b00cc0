"""A run that takes settings which were found with something else says so itself."""

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.results import settings_file
from experiments.training.fine_tuning_job import FineTuningJob, load_task
from experiments.training.reused_settings import rate
from problems.lora import LoRA
from problems.lora_settings import ModuleSettings

FOUND = LoRA(rank=4, lora_alpha=8, settings=ModuleSettings(learning_rate={"head": 1.7}))


def said(folder: Path, quick: list[str], *words: str) -> list[str]:
    """What a run with the file warns of while its model is loaded, as result.json keeps it."""
    place = str(folder / settings_file.FOLDER)
    given = [word for word in quick if not word.startswith("method.rank")]
    plan = Plan.of(compose_config([*given, f"method={settings_file.NAME}", *words], place))
    warnings = FineTuningJob.load(plan, load_task(plan)).warnings
    return [line for line in warnings if "found with" in line]


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    settings_file.write(FOUND.given(), str(tiny), 3e-3, 2, tmp_path)
    return tmp_path


def test_with_what_they_were_found_nothing_is_said(folder: Path, quick: list[str]) -> None:
    assert said(folder, quick, "seed=3") == []


@pytest.mark.parametrize(
    ("word", "was", "now"),
    [
        ("method.rank=2", "method.rank=4", "method.rank=2"),
        ("method.lora_alpha=16", "method.lora_alpha=8.0", "method.lora_alpha=16"),
        ("train.lr=1e-3", "train.lr=0.003", "train.lr=0.001"),
        ("model=demo", "tiny", "model=demo"),
        # which comes before train.lr
        ("method.optimizer.lr=1", "method.optimizer.lr=0.003", "method.optimizer.lr=1"),
    ],
)
def test_what_is_other_is_said(
    word: str, was: str, now: str, folder: Path, quick: list[str]
) -> None:
    given = [w for w in quick if not (word.startswith("model") and w.startswith("model"))]
    (line,) = said(folder, given, word)
    found, here = line.split("and this run has")
    assert was in found
    assert now in here
    rate = word.partition("=")[0]
    assert (f"factors of {rate}" in line) == rate.endswith(".lr")
    assert line.count("=") == 2


@pytest.mark.parametrize("own", [None, 3e-3])
def test_the_rate_is_the_one_that_was_trained_with(
    own: float | None, tiny: Path, tmp_path: Path, quick: list[str]
) -> None:
    """By default 5e-4; method.optimizer.lr where given, and train.lr is not used."""
    found = replace(FOUND, optimizer=replace(FOUND.optimizer, lr=own))
    path = settings_file.write(found.given(), str(tiny), rate(own, None), 2, tmp_path)
    given = [word for word in quick if not word.startswith("train.lr")]
    assert said(tmp_path, given) == []
    assert ("train.lr=0.0005" in path.read_text().splitlines()[0]) == (own is None)
    assert bool(said(tmp_path, given, "train.lr=0.5")) == (own is None)
