"""T1 chosen before the training: the run is the one that the number gives, killed or not."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bilevel.errors import UserError
from experiments import check_hypergradient
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.run import main
from problems import BiLoRA
from tests.experiments.cli.test_resume import killed_at

BILORA = ["method=bilora", "hypergradient=unrolled", "run.figures=false", "train.epochs=8"]


def result(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


def weights(folder: Path) -> bytes:
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def chosen(quick: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chosen") / "run"
    main([*quick, *BILORA, "method.horizon=0.9", f"hydra.run.dir={folder}"])
    return folder


def test_the_run_is_that_of_the_number(quick: list[str], chosen: Path, tmp_path: Path) -> None:
    found = result(chosen)
    t1, horizon = found["engine"]["T1"], found["engine"]["horizon"]
    assert horizon["wanted"] == 0.9
    tried = [int(steps) for steps in horizon["cosines"]]
    assert tried == [2**i for i in range(len(tried))]
    good = [steps for steps in tried if horizon["cosines"][str(steps)] >= 0.9]
    assert t1 == (good[0] if good else tried[-1])
    assert found["processor_seconds"]["horizon"] > 0
    assert "horizon" in (chosen / "run.log").read_text()
    main([*quick, *BILORA, f"method.unroll_steps={t1}", f"hydra.run.dir={tmp_path / 'told'}"])
    assert weights(tmp_path / "told") == weights(chosen)
    told = result(tmp_path / "told")
    assert "horizon" not in told["engine"]
    assert told["metrics"] == found["metrics"]


def test_auto_is_the_same_word_and_goes_on_where_it_was_killed(
    quick: list[str], chosen: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = [*quick, *BILORA, "method.unroll_steps=auto", "engine.checkpoint_every=1"]
    killed_at(
        ("experiments.results.saved_model", None, "save", 1, False),
        [*words, f"hydra.run.dir={run}"],
    )
    journal = json.loads((run / "checkpoints" / "stages.json").read_text())
    spent = journal["stages"]["horizon"]["summary"]["processor_seconds"]
    main([f"run.resume={run}"])
    assert weights(run) == weights(chosen)
    assert result(run)["engine"] == result(chosen)["engine"]
    assert result(run)["processor_seconds"]["horizon"] == spent  # not measured again


def test_auto_in_a_configuration() -> None:
    method = Plan.of(compose_config(["method=bilora", "method.unroll_steps=auto"])).method
    assert isinstance(method, BiLoRA)
    assert (method.unroll_steps, method.horizon) == (1, 0.9)
    given = ["method=bilora", "method.unroll_steps=auto", "method.horizon=0.5"]
    method = Plan.of(compose_config(given)).method
    assert isinstance(method, BiLoRA)
    assert method.horizon == 0.5


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["method=bilora", "method.horizon=1"], "horizon"),
        (["method=bilora", "method.unroll_steps=often"], "unroll_steps"),
        (["method=lora", "+method.horizon=0.9"], "horizon"),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], key: str) -> None:
    with pytest.raises(UserError, match=key):
        Plan.of(compose_config(words))


def test_the_estimator_that_does_not_go_through_all_steps_is_told(
    quick: list[str], tmp_path: Path
) -> None:
    given = [*quick, *BILORA, "hypergradient=sama", "method.horizon=-0.9"]
    main([*given, f"hydra.run.dir={tmp_path / 'run'}"])
    assert result(tmp_path / "run")["engine"]["T1"] == 1
    assert "sama does not" in (tmp_path / "run" / "run.log").read_text()


def test_a_stage_that_is_too_short(quick: list[str], tmp_path: Path) -> None:
    given = [*quick, *BILORA, "method.horizon=0.9", "train.max_steps=2"]
    with pytest.raises(SystemExit):
        main([*given, f"hydra.run.dir={tmp_path / 'run'}"])
    assert "too few" in (tmp_path / "run" / "run.log").read_text()


def test_the_check_measures_the_same(quick: list[str], chosen: Path) -> None:
    said = re.search(r"after (\d+) global steps", (chosen / "run.log").read_text())
    assert said is not None
    plan = Plan.of(compose_config([*quick, *BILORA]))
    found = check_hypergradient.measure(plan, steps=int(said[1]), batches=1, cosine=0.9)
    assert found.horizon is not None
    measured = result(chosen)["engine"]["horizon"]["cosines"]
    assert found.horizon.cosines[1] == pytest.approx(measured["1"], abs=1e-6)
