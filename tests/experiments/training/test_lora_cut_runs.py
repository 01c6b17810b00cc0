"""Runs of ``method=lora_cut``: what they leave, killed or not, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel

from bilevel.errors import UserError
from experiments import figures, ranks
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.run import main
from experiments.training.fine_tuning_job import FineTuningJob
from experiments.training.job import execute
from tests.experiments.cli.test_resume import killed_at
from tests.experiments.training.own_files import sentences

# The demo's own model learns something in three passes.
LEARNS = ["method=lora_cut", "task=demo", "task.max_test=80", "train.epochs=3"]
LEARNS += ["engine.precision=fp32", "engine.evaluate_every=0"]
FINISHED = ["method=lora_cut", "method.hold_out=0.25", "method.finish_epochs=1"]
FINISHED += ["method.parameter_budget=512", "run.figures=false"]


def traces(folder: Path) -> dict[str, Any]:
    """All that a run leaves, without times and places."""
    result = json.loads((folder / "result.json").read_text())
    for key in ("seconds", "processor_seconds", "peak_memory_mib", "adapter_dir"):
        del result[key]
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "result": result,
        "metrics": [{k: v for k, v in x.items() if k != "seconds"} for x in lines],
        "ranks": (folder / "ranks.json").read_bytes(),
        **{
            layout: (folder / layout / "adapter_model.safetensors").read_bytes()
            for layout in ("adapter", "adapter_compact")
        },
    }


@pytest.fixture(scope="module")
def finished(quick: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    main([*quick, *FINISHED, f"hydra.run.dir={folder}"])
    return folder


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learned") / "run"
    main([*LEARNS, f"hydra.run.dir={folder}"])
    return folder


@pytest.mark.parametrize(
    "method", [["method=lora_cut"], ["method=autolora_singular", "method.unroll_steps=2"]]
)
def test_a_told_size_without_examples_to_cut_by(
    quick: list[str], tmp_path: Path, method: list[str]
) -> None:
    """No frontier is drawn; ranks.json is read again for its picture."""
    options = [*method, "method.hold_out=0", "method.parameter_budget=512", "train.max_steps=8"]
    words = [w for w in quick if w != "run.figures=false"]
    main([*words, *options, "run.figures=true", f"hydra.run.dir={tmp_path / 'run'}"])
    found = json.loads((tmp_path / "run" / "ranks.json").read_text())
    assert (found["frontier"], found["even"], found["learned"], found["examples"]) == (None,) * 4
    assert found["parameters"] <= 512
    assert (tmp_path / "run" / "result.json").is_file()
    figures.main([str(tmp_path / "run")])


def test_a_search_whose_end_is_cut_keeps_its_last_weights_and_promises_no_others(
    quick: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = ["method=autolora_singular", "method.unroll_steps=2", "method.hold_out=0.3"]
    options += ["engine.evaluate_every=1", "train.max_steps=8"]
    caplog.set_level("INFO")
    result = execute(Plan.of(compose_config([*quick, *options])), tmp_path / "run")
    assert any(line.startswith("stage search:") for line in caplog.messages)
    assert result["kept"]["search"]["weights"] == "last"
    assert not any(line.startswith("stage search: ends with") for line in caplog.messages)


def test_the_ranks_and_what_they_cost_lie_in_the_run(learned: Path) -> None:
    plan = Plan.of(compose_config(LEARNS))
    result = json.loads((learned / "result.json").read_text())
    found = json.loads((learned / "ranks.json").read_text())
    assert found["learned"]
    assert result["ranks"] == found["ranks"]
    assert result["adapter_parameters"] == found["parameters"] < found["whole_parameters"]
    assert found["examples_from"] == "the training data, kept apart by method.hold_out=0.2"
    assert result["validation"]["examples"] == found["examples"] == 60
    assert result["validation"]["trained_on"] is False
    assert list(result["seconds"]) == ["train", "cut"]
    # the frontier's whole is the adapter that was trained
    whole = next(p for p in found["frontier"] if p["parameters"] == found["whole_parameters"])
    assert whole["loss"] == pytest.approx(result["validation"]["loss"], abs=1e-5)
    assert (learned / "figures" / "ranks.png").is_file()
    assert (learned / "ranks" / "frontier.png").is_file()
    assert result["decided"] == found["decided"]
    assert found["decided"]["components"] == 64
    assert found["decided"]["near"] is not None
    # stock PEFT, at the true ranks; a rank of 0 is a layer without an adapter
    job = FineTuningJob.load(plan, plan.task.load())
    stock = PeftModel.from_pretrained(job.stock_model(), str(learned / "adapter_compact"))
    sizes = {
        name: module.r["default"]
        for name, module in stock.get_base_model().named_modules()
        if hasattr(module, "lora_A")
    }
    assert sizes == {name: rank for name, rank in result["ranks"].items() if rank}
    # and it is scored as it lies there
    losses = job.losses(stock, job.tests["test"])
    assert losses.mean == pytest.approx(result["test_loss"], abs=1e-5)


def test_its_frontier_can_be_drawn_again(learned: Path, tmp_path: Path) -> None:
    out = tmp_path / "new"
    ranks.main([f"run={learned}", f"out={out}"])
    first, second = (json.loads((p / "ranks.json").read_text()) for p in (learned, out))
    assert second["whole_parameters"] == first["parameters"]
    whole = next(p for p in second["frontier"] if p["parameters"] == first["parameters"])
    assert whole["loss"] == pytest.approx(first["chosen"]["loss"], abs=1e-5)


@pytest.mark.parametrize("words", [[], ["rank=1"], ["out={}"], ["out={}/adapter/..", "rank=1"]])
def test_a_run_that_cut_itself_keeps_what_it_says_of_that(
    words: list[str],
    finished: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("experiments.models.pretrained.load_weights", None)
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}
    with pytest.raises(SystemExit, match="2"):
        ranks.main([f"run={finished}", *(word.format(finished) for word in words)])
    said = capsys.readouterr().err
    assert "out=DIR" in said
    assert "lora_cut" in said
    assert len(said.splitlines()) == 1
    assert {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()} == before


def test_what_was_finished_on_all_of_the_data_draws_none(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = json.loads((finished / "result.json").read_text())
    assert result["validation"]["trained_on"] is True
    assert result["validation"]["source"] == "training"
    before = (finished / "ranks.json").read_bytes()
    with pytest.raises(SystemExit, match="2"):
        ranks.main([f"run={finished}", f"out={tmp_path}"])
    said = capsys.readouterr().err
    assert "trained on in the end (method.finish_epochs=1" in said
    assert (finished / "ranks.json").read_bytes() == before
    assert list(tmp_path.iterdir()) == []


def test_a_validation_file_stays_apart_from_the_finish(tiny: Path, tmp_path: Path) -> None:
    rows = sentences(80)
    for split, part in (("train", rows[:48]), ("validation", rows[48:68]), ("test", rows[68:])):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, part)))
    words = ["task=classification", f"task.data_dir={tmp_path}", "task.text_columns=[text]"]
    words += ["model=hub", f"model.pretrained={tiny}", "train.batch_size=8", "train.epochs=1"]
    words += [*FINISHED, "method.rank=4"]
    run = tmp_path / "run"
    result = execute(Plan.of(compose_config([*words, "method.hold_out=0"])), run)
    assert result["validation"]["source"] == "validation"
    assert result["validation"]["trained_on"] is False
    assert json.loads((run / "ranks.json").read_text())["examples_from"] == "the validation file"


KILLED = {
    "in the training": ("bilevel.engine", "BilevelEngine", "train_step", 6, True),
    "before the cut": ("experiments.training.finished_stages", "Journal", "finish", 1, True),
    "after the cut": ("experiments.training.finished_stages", "Journal", "finish", 2, True),
    "in the finish": ("bilevel.engine", "BilevelEngine", "train_step", 24, True),
    "before the result": ("experiments.results.record", None, "write", 1, False),
}


@pytest.mark.parametrize(
    "point",
    [p if p == "before the cut" else pytest.param(p, marks=pytest.mark.slow) for p in KILLED],
)
def test_killed_and_resumed(point: str, quick: list[str], finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = [*quick, *FINISHED, f"hydra.run.dir={folder}"]
    killed_at(KILLED[point], words)
    assert not (folder / "result.json").exists()
    main([f"run.resume={folder}"])
    assert traces(folder) == traces(finished)


def test_nothing_learned_is_said_and_keeps_all(quick: list[str], tmp_path: Path) -> None:
    words = [*quick, "method=lora_cut", "train.lr=1e-9", "train.max_steps=2", "run.figures=false"]
    result = execute(Plan.of(compose_config(words)), tmp_path / "run")
    found = json.loads((tmp_path / "run" / "ranks.json").read_text())
    assert found["learned"] is False
    assert found["ranks"] is None
    assert set(result["ranks"].values()) == {4}
    assert any(words.startswith("nothing learned") for words in result["warnings"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["method.hold_out=0"], r"method\.hold_out=0 .*here are none"),
        (["method.hold_out=0.99"], r"method\.hold_out=0\.99 .*batch_size=8"),
        (["method.criterion=singulr"], "criterion=singulr.*did you mean 'singular'"),
        (["method.examples=1"], r"method\.examples=1.*2 or more"),
        (["method.finish_epochs=-1"], r"method\.finish_epochs=-1.*0 or more"),
        (["method.finish_epochs=0.1", "train.warmup_steps=5"], "warmup_steps=5.*2 optimiser"),
    ],
)
def test_refused_before_a_model_loads(
    words: list[str], said: str, quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FineTuningJob, "load", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(UserError, match=said):
        execute(Plan.of(compose_config([*quick, "method=lora_cut", *words])), tmp_path / "run")


def test_a_sweep_over_budgets(quick: list[str], tmp_path: Path) -> None:
    words = [*quick, "method=lora_cut", "train.max_steps=2", "run.figures=false"]
    main(["-m", *words, "method.parameter_budget=128,300", f"hydra.sweep.dir={tmp_path}"])
    sizes = [
        json.loads(path.read_text())["adapter_parameters"]
        for path in sorted(tmp_path.glob("*/result.json"))
    ]
    assert sizes == [128, 256]
    assert (tmp_path / "summary.csv").is_file()
