"""method=linear_probe as a run: every kind of answer, evaluated again, resumed, refused."""

import json
import math
import random

import pytest
from transformers import AutoTokenizer, pipeline

from bilevel.errors import UserError
from experiments import evaluate, export
from experiments.api import finetune
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.results import record
from experiments.run import main
from experiments.tasks.demo import Demo
from problems import LinearProbe
from problems.linear_probe.model import ProbedModel
from tests.experiments.training.own_files import run, sentences, write

KNOWN = sorted({w for e in Demo(max_train=100).load().train for w in e.texts[0].split()})


def words(tiny, data, *more):
    return [
        *("method=linear_probe", "model=hub", f"model.pretrained={tiny}", f"task.data_dir={data}"),
        *("run.figures=false", *more),
    ]


def texts(tiny, data, *more):
    return words(tiny, data, "task=classification", "task.text_columns=[text]", *more)


def jsonl(folder, **splits):
    folder.mkdir()
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def cut(make):
    return {name: [make(i) for i in range(n)] for name, n in (("train", 60), ("test", 24))}


def first_known(i):
    return {"text": " ".join(KNOWN[(i * k) % len(KNOWN)] for k in (1, 3, 5))}


def test_classes_with_and_without_a_validation_file(tiny, tmp_path, capsys):
    rows = {"train": sentences(96), "test": sentences(40, 1)}
    place = tmp_path / "run"
    main([*texts(tiny, write(tmp_path / "two", **rows)), f"hydra.run.dir={place}"])
    found = record.read(place)
    assert found["validation"]["trained_on"]  # fitted again with the rest
    assert found["data"] == {"train": 77, "validation": 19, "test": 40}
    losses = found["probe"]["validation_losses"]
    assert found["validation"]["loss"] == pytest.approx(min(losses.values()), abs=1e-5)
    assert losses[f"{found['probe']['penalty']:g}"] == min(losses.values())
    assert found["trainable_parameters"] == found["head_parameters"] == 2 * 32 + 2
    assert found["adapter_parameters"] == 0
    assert len((place / "predictions.jsonl").read_text().splitlines()) == 40
    capsys.readouterr()
    evaluate.main([f"run={place}"])
    again = capsys.readouterr().out
    for name, value in {**found["metrics"], "loss": found["test_loss"]}.items():
        assert f"{value:.4f}   (its result.json says {value:.4f})" in again, name

    rows["validation"] = sentences(30, 2)
    three = run(tmp_path / "three", texts(tiny, write(tmp_path / "files", **rows)))
    assert three["validation"]["source"] == "validation"
    assert three["validation"]["examples"] == 30
    assert not three["validation"]["trained_on"]
    assert three["data"]["train"] == 96


def test_a_plain_model_is_made_of_what_a_head_can_hold(tiny, tmp_path, capsys):
    data = write(tmp_path / "data", train=sentences(96), test=sentences(40, 1))
    place = tmp_path / "run"
    main([*texts(tiny, data, "method.pooling=head"), f"hydra.run.dir={place}"])
    export.main([f"run={place}", "merge=true", f"out={tmp_path}"])
    classify = pipeline("text-classification", model=str(tmp_path / "merged"))
    lines = [json.loads(x) for x in (place / "predictions.jsonl").read_text().splitlines()]
    said = classify([row["text"] for row in sentences(40, 1)])
    assert [one["label"] for one in said] == [line["prediction"] for line in lines]
    with pytest.raises(SystemExit):
        export.main([f"run={place}"])
    assert "merge=true" in capsys.readouterr().err


def test_what_is_held_out_can_stay_out(tiny, tmp_path):
    data = write(tmp_path / "data", train=sentences(96), test=sentences(40, 1))
    options = texts(tiny, data, "method.hold_out=0.25", "method.refit=false")
    found = run(tmp_path / "run", options)
    assert found["data"] == {"train": 72, "validation": 24, "test": 40}
    assert not found["validation"]["trained_on"]
    # Such a run's held-out examples are those of plain LoRA with the same hold_out and seed.
    lora = [w for w in options if not w.startswith("method")]
    other = run(
        tmp_path / "lora",
        [*lora, "method=lora", "method.hold_out=0.25", "train.max_steps=1", "train.batch_size=8"],
    )
    assert found["validation"]["digest"] == other["validation"]["digest"]


def test_tags(tiny, tmp_path):
    drawn = random.Random(0)

    def sentence(_):
        tokens = [drawn.choice(KNOWN) for _ in range(5)]
        return {"tokens": tokens, "ner_tags": ["B-A" if t < KNOWN[9] else "O" for t in tokens]}

    data = jsonl(tmp_path / "data", **cut(sentence))
    found = run(tmp_path / "run", words(tiny, data, "task=tagging", "method.max_rows=100"))
    assert found["probe"]["pooling"] == "head"  # of tags there is nothing to pool
    assert found["data"] == {"train": 16, "validation": 4, "test": 24}  # 20 sentences of 5 words
    assert found["metrics"]["token_accuracy"] > 0.6
    assert set(found["validation"]["metrics"]) == set(found["metrics"])


def test_numbers(tiny, tmp_path):
    """One word decides: the embeddings of a random model tell it, and ridge regression reads it."""
    rows = cut(lambda i: {"text": f"{KNOWN[i % 5]} {KNOWN[-1]}", "label": float(i % 5)})
    data = jsonl(tmp_path / "data", **rows)
    found = run(tmp_path / "run", texts(tiny, data, "task.regression=true"))
    assert found["metrics"]["pearson"] > 0.9
    losses = found["probe"]["validation_losses"]
    assert found["validation"]["loss"] == pytest.approx(min(losses.values()), rel=1e-4, abs=1e-9)


def test_sets_of_labels(tiny, tmp_path):
    rows = cut(lambda i: {**first_known(i), "label": [["a"], ["a", "b"], ["b"]][i % 3]})
    data = jsonl(tmp_path / "data", **rows)
    found = run(tmp_path / "run", texts(tiny, data, "task.multi_label=true"))
    losses = found["probe"]["validation_losses"]
    assert found["validation"]["loss"] == pytest.approx(min(losses.values()), rel=1e-4)
    assert found["metrics"]["micro_f1"] > 0.5


def test_an_interrupted_run_goes_on_behind_its_fit(tiny, tmp_path, monkeypatch):
    data = write(tmp_path / "data", train=sentences(96), test=sentences(40, 1))
    place = tmp_path / "run"
    first = run(place, texts(tiny, data))
    (place / "result.json").unlink()
    monkeypatch.setattr(LinearProbe, "fit", None)
    again = run(place, texts(tiny, data, f"run.resume={place}"))
    assert again["metrics"] == first["metrics"]
    assert again["test_loss"] == first["test_loss"]
    assert again["probe"] == first["probe"]


def test_text_is_refused_before_a_model_loads(tmp_path):
    rows = {
        "train": [{"source": "a", "target": "b"}] * 20,
        "test": [{"source": "a", "target": "b"}],
    }
    data = jsonl(tmp_path / "data", **rows)
    with pytest.raises(UserError, match=r"linear_probe.*no text"):
        run(tmp_path / "run", words("gpt2", data, "task=text_to_text"))


def test_from_python(tiny):
    options = ["task=demo", "task.max_train=96", "task.max_test=40"]
    plan = Plan.of(compose_config([*options, "model=hub", f"model.pretrained={tiny}"]))
    task = plan.task.load()
    loaded = plan.model.load(task.answers, 0)
    rows = {
        "train": task.tokenise(loaded.tokenizer, task.train),
        "test": task.tokenise(loaded.tokenizer, task.tests["test"]),
    }
    tuned = finetune(loaded.model, AutoTokenizer.from_pretrained(tiny), rows, LinearProbe())
    assert isinstance(tuned.model, ProbedModel)
    assert tuned.lora_config is None
    assert math.isfinite(tuned.result["test_loss"])
