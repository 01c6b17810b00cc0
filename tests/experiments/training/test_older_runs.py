"""Run folders that an earlier version left: read, exported, reported, and taken up again.

``older_runs/finished`` and ``older_runs/interrupted`` are one AutoLoRA run of the commit before the
packages were put in order; the latter was killed in the midst of its second stage.
"""

import shutil
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from bilevel.errors import UserError
from experiments import evaluate, export, report
from experiments.cli import resume
from experiments.cli.command_line import CommandLine
from experiments.results import record
from experiments.run import main

OLDER = Path(__file__).parents[1] / "older_runs"
WEIGHTS = "adapter_compact/adapter_model.safetensors"


@pytest.fixture
def finished(tmp_path):
    return Path(shutil.copytree(OLDER / "finished", tmp_path / "finished"))


@pytest.fixture
def interrupted(tmp_path):
    return Path(shutil.copytree(OLDER / "interrupted", tmp_path / "interrupted"))


def test_is_evaluated(finished, capsys):
    evaluate.main([f"run={finished}"])
    there = record.read(finished)
    assert there is not None
    line = next(row for row in capsys.readouterr().out.splitlines() if "accuracy" in row)
    assert line.split()[1] == f"{there['metrics']['accuracy']:.4f}"


def test_is_exported(finished, tmp_path):
    export.main([f"run={finished}", f"out={tmp_path / 'out'}"])
    assert_close(load_file(tmp_path / "out" / WEIGHTS), load_file(finished / WEIGHTS))


def test_is_reported(finished):
    report.main([str(finished)])
    assert "autolora" in (finished / "summary.md").read_text()


def test_goes_on_within_its_stage(interrupted):
    main([f"run.resume={interrupted}"])
    log = (interrupted / "run.log").read_text()
    assert "goes on at step 12" in log
    # Other machines round differently; what does not go on where it was is far away.
    expected = load_file(OLDER / "finished" / WEIGHTS)
    assert_close(load_file(interrupted / WEIGHTS), expected, atol=1e-4, rtol=1e-3)


def test_auto_finds_it(interrupted, monkeypatch):
    monkeypatch.chdir(interrupted.parent)
    words = [line[2:] for line in (interrupted / ".hydra/overrides.yaml").read_text().splitlines()]
    main([*words, f"hydra.run.dir={interrupted.parent}/new", "run.resume=auto"])
    assert (interrupted / "result.json").is_file()


@pytest.mark.parametrize("word", ["hydra.searchpath=[file://{own}]", "++hydra.callbacks.x={own}"])
def test_words_for_hydra_in_somebody_s_folder_are_not_followed(interrupted, tmp_path, word):
    (tmp_path / "planted.py").write_text("")
    with open(interrupted / ".hydra" / "overrides.yaml", "a", encoding="utf-8") as file:
        file.write(f"- '{word.format(own=tmp_path)}'\n")
    words = resume.expand(CommandLine.parse([f"run.resume={interrupted}"]))
    of_hydra = [word for word in words if word.lstrip("+~").startswith("hydra")]
    assert of_hydra == [f"hydra.run.dir={interrupted}"]
    assert str(tmp_path) not in sys.path


def test_what_was_the_default_then_stays(interrupted):
    # Its words name no estimator and no model.
    words = resume.expand(CommandLine.parse([f"run.resume={interrupted}"]))
    assert {"hypergradient=finite_difference", "model=demo"} <= set(words)
    choices = interrupted / ".hydra" / "hydra.yaml"
    away = choices.read_text().replace("model: demo", "model: ../../../away")
    choices.write_text(away)
    with pytest.raises(UserError, match="model"):
        resume.expand(CommandLine.parse([f"run.resume={interrupted}"]))
