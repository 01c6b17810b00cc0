"""The user's own validation split: what it is used for, and that the test set is not."""

import csv
import logging
import math

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bilevel.errors import UserError
from experiments.config import hydra_runs
from experiments.config.composition import compose_config, composed, hydra_app
from experiments.config.plan import Plan
from experiments.results import record
from experiments.run import execute as execute_in_hydra
from experiments.run import main
from experiments.training import trained_rows
from experiments.training.fine_tuning_job import load_task
from tests.experiments.cli.test_resume import killed_at
from tests.experiments.training.own_files import (
    evaluations,
    run,
    sentences,
    three_files,
    words,
    write,
)
from tests.experiments.training.test_resume_methods import traces

QUICK = ["method.rank=2", "train.target_modules=all"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return three_files(tmp_path_factory.mktemp("data"))


def saved_loss(tiny, folder, path):
    """Mean loss of a saved adapter on a file's sentences; nothing of ours but the sentences."""
    base = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=2)
    model = PeftModel.from_pretrained(base, folder / "adapter").eval()
    rows = read(path)
    texts, labels = [r["text"] for r in rows], [int(r["label"] == "pos") for r in rows]
    batch = AutoTokenizer.from_pretrained(tiny)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits
    return torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).item()


def test_the_best_weights_are_saved_and_the_test_set_is_not_looked_at(tiny, data, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    found = run(tmp_path / "best", words(tiny, data, "method=lora", *QUICK))
    lines = evaluations(tmp_path / "best")
    losses = {line["step"]: line["validation_loss"] for line in lines}
    first = min(losses, key=losses.__getitem__)
    assert found["kept"] == {"train": {"weights": "best", "step": first}}
    assert first < found["engine"]["steps"]["train"] == 16
    assert found["validation_loss"] == pytest.approx(losses[first], abs=1e-6)
    loss = saved_loss(tiny, tmp_path / "best", data / "validation.csv")
    assert loss == pytest.approx(losses[first], abs=1e-5)
    assert found["validation"]["source"] == "validation"
    assert not found["validation"]["trained_on"]
    assert found["data"] == {"train": 64, "validation": 24, "test": 32}
    assert not any(key.startswith("test_") for line in lines for key in line)
    assert "validation_accuracy" in lines[0]
    assert "test_loss" not in caplog.text
    assert "no level trains on it" in caplog.text

    told = [x.getMessage() for x in caplog.records if "train_loss" in x.getMessage()]
    # Each step once, the last one too, and the weights that were kept under their own step.
    titles = [f"step {line['step']}" for line in lines]
    assert len(set(titles)) == len(titles) > 2
    titles.append(f"kept are the weights of step {first}")
    assert [line.partition(":")[0] for line in told] == titles

    last = run(tmp_path / "last", words(tiny, data, "method=lora", "engine.keep=last", *QUICK))
    assert last["kept"] == {"train": {"weights": "last", "step": 16}}
    loss = saved_loss(tiny, tmp_path / "last", data / "validation.csv")
    assert loss == pytest.approx(losses[16], abs=1e-5)


def test_the_test_set_is_shown_if_asked_for_and_decides_nothing(tiny, data, tmp_path):
    other = three_files(tmp_path / "other")
    write(other, test=sentences(32, 2, wrong=True))
    asked = words(tiny, data, "method=lora", "engine.evaluate_test=true", *QUICK)
    found = run(tmp_path / "a", asked)
    assert "test_accuracy" in evaluations(tmp_path / "a")[0]
    again = run(tmp_path / "b", words(tiny, other, "method=lora", *QUICK))
    assert again["metrics"]["accuracy"] == 1 - found["metrics"]["accuracy"]
    adapter = "adapter/adapter_model.safetensors"
    assert (tmp_path / "a" / adapter).read_bytes() == (tmp_path / "b" / adapter).read_bytes()


def test_early_stopping_ends_with_the_best(tiny, data, tmp_path):
    options = ["method=lora", "engine.early_stopping=2", *QUICK]
    found = run(tmp_path, words(tiny, data, *options))
    assert found["engine"]["steps"]["train"] == found["kept"]["train"]["step"] + 4 < 16


def test_a_metric_may_choose(tiny, data, tmp_path):
    options = ["method=lora", "engine.choose_by=accuracy", "engine.early_stopping=3", *QUICK]
    found = run(tmp_path, words(tiny, data, *options))
    scores = {line["step"]: line["validation_accuracy"] for line in evaluations(tmp_path)}
    best = max(scores, key=scores.__getitem__)
    assert found["kept"]["train"]["step"] == best
    assert found["validation"]["metrics"]["accuracy"] == pytest.approx(scores[best])


# What is trained in stages, on two levels, with state of its own, or takes its form on the way.
METHODS = {
    "lora": [],
    "bilora": ["method.prune_below=0.4"],
    "autolora": ["train.max_steps=8"],
    "salora": ["method.start=0.1", "method.end=0.5"],
    "adalora": [],
    "delta_lora": ["method.mode=in_place", "method.start_step=2"],
    "dylora": [],
    "bidora": ["method.retrain=true", "train.max_steps=8"],
    "salora_bilevel": ["method.start=0.1", "method.end=0.5"],
    "full": ["method.optimizer.lr=1e-3"],
    "houlsby": [],
}
OFTEN = {"lora", "autolora", "salora", "delta_lora"}


@pytest.mark.parametrize(
    "method", [m if m in OFTEN else pytest.param(m, marks=pytest.mark.slow) for m in METHODS]
)
def test_killed_between_the_best_and_the_end(method, tiny, data, tmp_path):
    """The best weights come back from the checkpoint, bit for bit."""
    rank = ["method.rank=2"] if "rank" in compose_config([f"method={method}"]).method else []
    options = words(tiny, data, f"method={method}", *METHODS[method], *rank)
    main([*options, f"hydra.run.dir={tmp_path / 'undisturbed'}"])
    values = record.read(tmp_path / "undisturbed")
    *_, (stage, kept) = values["kept"].items()
    end = values["engine"]["steps"][stage]
    assert kept["weights"] == "best"
    assert kept["step"] < end, "the best is the last: nothing is shown"
    before = sum(values["engine"]["steps"].values()) - end
    point = ("bilevel.engine", "BilevelEngine", "train_step", before + end, True)
    killed_at(point, [*options, f"hydra.run.dir={tmp_path / 'killed'}"])
    main([f"run.resume={tmp_path / 'killed'}"])
    assert traces(tmp_path / "killed") == traces(tmp_path / "undisturbed")


@pytest.mark.parametrize(("method", "settled"), [("salora", 9), ("adalora", 9)])
def test_what_is_kept_has_the_form_that_is_saved(method, settled, tiny, data, tmp_path):
    """The first evaluations are better, but of a model with more components than are saved."""
    options = {"salora": ["method.start=0.1", "method.end=0.5"], "adalora": []}[method]
    found = run(tmp_path, words(tiny, data, f"method={method}", "method.rank=4", *options))
    step = found["kept"]["train"]["step"]
    assert settled <= step < 16
    loss = saved_loss(tiny, tmp_path, data / "validation.csv")
    assert loss == pytest.approx(found["validation_loss"], abs=1e-4)


def test_the_validation_split_as_d_val_of_every_stage(tiny, data, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    options = ["method=autolora", "method.split=null", "train.max_steps=8", *QUICK]
    found = run(tmp_path, words(tiny, data, *options))
    assert found["data"] == {"train": 64, "validation": 24, "test": 32}
    assert found["kept"]["search"] == {"weights": "last", "step": 8}
    assert found["kept"]["retrain"]["weights"] == "best"
    assert found["validation"]["examples"] == 24
    assert "the validation split is D_val (method.split=null)" in caplog.text
    assert "D_val 24 (the task's validation split), which the upper level trains on" in caplog.text


def test_upper_steps_are_those_taken_not_those_before_the_weights_that_are_kept(
    tiny, data, tmp_path
):
    options = ["method=bilora", "method.unroll_steps=1", "train.max_steps=16", *QUICK]
    found = run(tmp_path, words(tiny, data, *options))
    assert found["kept"]["train"]["weights"] == "best"
    assert found["kept"]["train"]["step"] < 16
    assert found["engine"]["upper_steps"] == {"train": 16}
    assert found["examples_seen"]["upper"] == 16 * 8


def test_d_val_is_trained_on_though_other_examples_watch_the_search(tiny, data, tmp_path):
    """Gates learn on the split, the search is watched by what hold_out keeps apart."""
    options = ["method=autolora_singular", "method.split=null", "method.hold_out=0.2"]
    options += ["method.parameter_budget=0.5", "train.max_steps=8", *QUICK]
    found = run(tmp_path, words(tiny, data, *options))
    assert found["validation"]["source"] == "validation"
    assert found["validation"]["trained_on"]
    rows = [row["text"] for name in ("train", "validation") for row in read(data / f"{name}.csv")]
    marks = trained_rows.read(tmp_path)
    assert marks is not None
    assert len(marks) == len(set(rows))


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_validation_file_alone_is_the_test_set_and_that_is_said(tiny, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    data = write(tmp_path / "data", train=sentences(32), validation=sentences(16, 1))
    found = run(tmp_path / "run", words(tiny, data, "method=bilora", "method.split=0.5", *QUICK))
    assert (found["test_source"], found["data"]) == (
        "validation",
        {"train": 16, "validation": 16, "test": 16},
    )
    assert found["kept"]["train"]["weights"] == "last"
    assert found["validation"]["source"] == "training"
    assert "validation split, which is the test set" in caplog.text


def test_a_share_that_is_held_out_is_chosen_by(tiny, data, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    options = words(tiny, data, "method=lora", "method.hold_out=0.25", *QUICK)
    found = run(tmp_path, options)
    assert found["data"] == {"train": 48, "validation": 16, "test": 32}
    assert found["validation"]["source"] == "training"
    assert found["kept"]["train"]["weights"] == "best"
    assert "method.hold_out=0 takes the split" in caplog.text


def test_a_share_beside_a_test_on_validation_leaves_the_last_as_on_glue(tiny, tmp_path):
    data = write(tmp_path / "data", train=sentences(32), validation=sentences(16, 1))
    options = words(tiny, data, "method=lora", "method.hold_out=0.25", "train.max_steps=2", *QUICK)
    for asked, kept in (([], "last"), (["engine.keep=best"], "best")):
        found = run(tmp_path / kept, [*options, *asked])
        assert found["kept"]["train"]["weights"] == kept


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["method=lora", "engine.early_stopping=2"], r"early_stopping=2 has nothing.*validation"),
        (["method=salora", "engine.early_stopping=2"], "early_stopping=2 has nothing"),
        (["method=lora", "engine.keep=best"], r"keep=best has nothing.*hold_out"),
        (["method=bilora", "engine.keep=best"], "keep=best has nothing.*trains on its D_val"),
        (["method=lora", "engine.choose_by=f2"], "choose_by=f2: allowed are loss, accuracy"),
        (["method=autolora", "method.split=null"], "split=null.*beside its test set"),
    ],
)
def test_nothing_to_choose_by_is_refused_before_a_model_loads(options, message, tmp_path):
    data = write(tmp_path, train=sentences(48), test=sentences(16, 1))
    plan = Plan.of(compose_config([*words(tmp_path, data, *options)[2:], "model=demo"]))
    with pytest.raises(UserError, match=message):
        load_task(plan)


@pytest.mark.parametrize("option", ["early_stopping=2", "keep=best"])
def test_no_evaluations_to_choose_among_are_refused(option):
    with pytest.raises(UserError, match=f"engine.{option}.*evaluate_every"):
        Plan.of(compose_config([f"engine.{option}", "engine.evaluate_every=0"]))


def returned(options, folder):
    """What a sweeper is told of a run."""
    with hydra_app() as app:
        config = composed(app, [*options, f"hydra.run.dir={folder}"])
        plan = Plan.of(config)
        return hydra_runs.one(app, lambda config: execute_in_hydra(plan), config)


def test_a_sweeper_is_told_the_validation_score(tiny, data, tmp_path):
    options = words(tiny, data, "method=lora", *QUICK)
    score = returned(options, tmp_path / "a")
    values = record.read(tmp_path / "a")
    assert score == values["validation"]["metrics"]["accuracy"] != values["metrics"]["accuracy"]
    none = write(tmp_path / "none", train=sentences(32), test=sentences(16, 1))
    assert math.isnan(returned(words(tiny, none, "method=lora", *QUICK), tmp_path / "b"))


def test_text_is_told_by_its_loss():
    found = {"loss": 2.0, "metrics": {"bleu": 30.0}}
    values = {"kind": "text", "primary_metric": "bleu", "validation": found}
    assert record.validation_score(values) == -2.0
    assert math.isnan(record.validation_score({**values, "validation": None}))
    assert math.isnan(record.validation_score({"kind": "classes"}))  # of an older version
