"""model.warm_start: the backbone of another run, a new head, and a result that says so."""

import json
import shutil

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification

from bilevel.errors import UserError
from experiments.answers import CLASSES, TAGS, Answers
from experiments.cli.command_line import CommandLine
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.evaluate import evaluate
from experiments.models.spec import ModelSpec
from experiments.results import saved_model
from experiments.results.finished_run import SavedRun
from experiments.training import warm_start
from experiments.training.job import execute

SHORT = ["task=demo", "task.max_train=32", "task.max_test=16", "train.max_steps=4"]
QUIET = ["engine.precision=fp32", "engine.evaluate_every=0", "run.figures=false"]
DEMO = {"package": "experiments.demo", "package_folder": "model"}


def run(folder, *words):
    return execute(Plan.of(compose_config([*SHORT, *QUIET, *words])), folder)


def logits(model):
    ids = torch.arange(5, 15).reshape(2, 5)
    with torch.no_grad():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    run(folder, "method=lora", "train.lr=0.1")
    return folder


def test_the_backbone_is_the_other_runs_and_the_head_is_new(first):
    spec = ModelSpec("demo", warm_start=str(first), **DEMO)
    started = warm_start.load(spec, Answers(CLASSES, 2), seed=1).model
    fresh = ModelSpec("demo", **DEMO).load(Answers(CLASSES, 2), seed=1).model
    assert torch.equal(started.classifier.weight, fresh.classifier.weight)
    base = ModelSpec("demo", **DEMO).load(Answers(CLASSES, 2), seed=0).model
    tuned = saved_model.load(first / "adapter", base).eval()
    with torch.no_grad():  # the same hidden states as the adapter's, to fp32 rounding
        tuned.get_base_model().classifier = fresh.classifier
        assert torch.allclose(logits(started), logits(tuned), atol=1e-4)
    assert not torch.allclose(logits(started), logits(fresh), atol=1e-2)


@pytest.mark.parametrize("method", ["autolora", "full"])
def test_the_result_says_so_and_is_loaded_as_usual(first, tmp_path, monkeypatch, method):
    monkeypatch.chdir(tmp_path)
    values = run(tmp_path, f"method={method}", f"model.warm_start={first}")
    assert values["warm_start"]["task"] == "demo"
    assert values["warm_start"]["run"] == str(first)
    assert (tmp_path / "base").is_dir() == (method == "autolora")
    if method == "autolora":
        config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == "base"  # seen from where the run was started
        stock = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter")
        opened = SavedRun.open(str(tmp_path), CommandLine.parse([]), [])
        ours = saved_model.load(tmp_path / "adapter", opened.base(opened.task()).model)
        assert torch.allclose(logits(stock), logits(ours), atol=1e-5)


def test_no_warm_start_is_said_too(first):
    assert json.loads((first / "result.json").read_text())["warm_start"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "roberta-base"}, r"model\.warm_start=.*roberta-base.*demo"),
        ({"warm_start": {"run": "x"}}, r"model\.warm_start=.*itself"),
        ({"kind": "text"}, r"model\.warm_start=.*labels"),
        ({"program": "style_transfer"}, r"is a result of experiments\.style_transfer, no run$"),
    ],
)
def test_runs_that_cannot_be_started_from(first, tmp_path, change, message):
    values = json.loads((first / "result.json").read_text()) | change
    (tmp_path / "result.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=message):
        Plan.of(compose_config([*SHORT, f"model.warm_start={tmp_path}"]))


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(UserError, match=r"model\.warm_start=.*no finished run"):
        Plan.of(compose_config([*SHORT, f"model.warm_start={tmp_path}"]))


def test_bfloat16_would_round_the_other_runs_update_away(first):
    with pytest.raises(UserError, match="rounded away"):
        ModelSpec("demo", warm_start=str(first), dtype="bfloat16", **DEMO)


def test_words_are_tagged_from_there_too(first):  # that model has no pooler
    answers = Answers(TAGS, 3, ("O", "B-X", "I-X"))
    spec = ModelSpec("demo", warm_start=str(first), **DEMO)
    started = warm_start.load(spec, answers, seed=0).model
    fresh = ModelSpec("demo", **DEMO).load(answers, seed=0).model
    name = "bert.encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(started.state_dict()[name], fresh.state_dict()[name])


def test_what_cannot_be_merged(tmp_path):
    run(tmp_path, "method=ia3")
    spec = ModelSpec("demo", warm_start=str(tmp_path), **DEMO)
    with pytest.raises(UserError, match="leaves nothing that can be merged"):
        warm_start.load(spec, Answers(CLASSES, 2), seed=0)


def test_it_is_read_again_without_the_run_it_was_started_from(first, tmp_path):
    start = tmp_path / "start"
    shutil.copytree(first, start)
    values = run(tmp_path / "run", "method=autolora", f"model.warm_start={start}")
    shutil.rmtree(start)
    opened = SavedRun.open(str(tmp_path / "run"), CommandLine.parse([]), [])
    assert evaluate(opened, tmp_path / "run" / "adapter")["loss"] == pytest.approx(
        values["test_loss"], rel=1e-5
    )


def test_a_local_model_that_moved_is_the_same(tiny, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    shutil.copytree(tiny, old)
    run(tmp_path / "first", "method=lora", "model=hub", f"model.pretrained={old}")
    warm = ["model=hub", f"model.warm_start={tmp_path / 'first'}"]
    old.rename(new)
    values = run(tmp_path / "run", "method=lora", *warm, f"model.pretrained={new}")
    assert values["warm_start"]["run"] == str(tmp_path / "first")
    new.rename(old)
    other_words = Plan.of(compose_config([*SHORT, *warm, f"model.pretrained={old}/."]))
    assert other_words.model.title != str(old)
    (old / "config.json").write_text((old / "config.json").read_text() + " ")
    old.rename(new)
    with pytest.raises(UserError, match=r"is a run of model .*old, this one is of .*new"):
        Plan.of(compose_config([*SHORT, *warm, f"model.pretrained={new}"]))
