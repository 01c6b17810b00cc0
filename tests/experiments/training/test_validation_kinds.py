"""The validation split of tags, of numbers, of text, of GLUE and of rows given from Python."""

import json
import random

import pytest

from bilevel.callbacks import NonFiniteError
from bilevel.errors import UserError
from experiments.answers import CLASSES, Answers
from experiments.api import finetune
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.tasks.demo import Demo
from experiments.training.stage import StageRun
from problems import AutoLoRA, BiLoRA, LoRA, RandomSettings
from tests.experiments import writers
from tests.experiments.training.own_files import evaluations, run, sentences

COMMON = [
    *("method=lora", "method.rank=2", "train.batch_size=8", "train.lr=1e-2", "train.max_steps=6"),
    *("engine.precision=fp32", "engine.evaluate_every=0.25", "run.figures=false"),
]


def files(folder, **splits):
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return f"task.data_dir={folder}"


def assert_best_by(found, folder, key, best=min):
    scores = {line["step"]: line[key] for line in evaluations(folder)}
    assert scores[found["kept"]["train"]["step"]] == best(scores.values())
    assert found["validation"]["source"] == "validation"
    assert found["data"]["validation"] == found["validation"]["examples"]


def test_tags(tiny, tmp_path):
    drawn = random.Random(0)
    known = sorted({w for e in Demo(max_train=100).load().train for w in e.texts[0].split()})

    def sentence():
        tokens = [drawn.choice(known) for _ in range(5)]
        return {"tokens": tokens, "ner_tags": [drawn.choice(["O", "B-A"]) for _ in tokens]}

    sizes = {"train": 32, "validation": 12, "test": 8}
    data = files(tmp_path, **{k: [sentence() for _ in range(n)] for k, n in sizes.items()})
    words = ["task=tagging", data, "model=hub", f"model.pretrained={tiny}", *COMMON]
    found = run(tmp_path / "run", words)
    assert_best_by(found, tmp_path / "run", "validation_loss")
    assert "f1" in found["validation"]["metrics"]


def test_numbers_and_a_glue_task(tiny, tmp_path):
    rows = [
        {"sentence1": r["text"], "sentence2": "x", "label": i % 5}
        for i, r in enumerate(sentences(48))
    ]
    data = files(tmp_path, train=rows[:24], validation=rows[24:36], test=rows[36:])
    words = ["task=stsb", data, "model=hub", f"model.pretrained={tiny}", "task.max_length=48"]
    found = run(tmp_path / "run", [*words, *COMMON, "engine.choose_by=pearson"])
    assert found["test_source"] == "test"
    assert_best_by(found, tmp_path / "run", "validation_pearson", max)


def test_sets_of_labels(tiny, tmp_path):
    marks = [["a"], ["a", "b"], [], ["b"]]
    rows = [{"text": r["text"], "label": marks[i % 4]} for i, r in enumerate(sentences(56))]
    data = files(tmp_path, train=rows[:32], validation=rows[32:44], test=rows[44:])
    words = ["task=classification", "task.text_columns=[text]", "task.multi_label=true", data]
    words += ["model=hub", f"model.pretrained={tiny}", *COMMON, "engine.choose_by=micro_f1"]
    found = run(tmp_path / "run", words)
    assert_best_by(found, tmp_path / "run", "validation_micro_f1", max)


@pytest.mark.parametrize(
    ("kind", "by"), [("gpt2", "loss"), ("gpt2", "bleu"), ("bart", "loss"), ("t5", "bleu")]
)
def test_text(kind, by, tmp_path):
    """References of one source are scored together; text is only written if it is asked for."""

    def pairs(count, shift):
        told = [
            " ".join(f"w{(i + k + shift) % writers.WORDS}" for k in range(3)) for i in range(count)
        ]
        return [{"source": f"w{i // 2}", "target": text} for i, text in enumerate(told)]

    data = files(tmp_path, train=pairs(24, 0), validation=pairs(6, 1), test=pairs(4, 2))
    words = [
        *("task=text_to_text", data, "model=hub"),
        f"model.pretrained={writers.folder(tmp_path / 'model', kind)}",
        *("task.decoding.max_new_tokens=5", "task.decoding.beams=1", "task.metrics=[bleu]"),
    ]
    found = run(tmp_path / "run", [*words, *COMMON, f"engine.choose_by={by}"])
    assert_best_by(found, tmp_path / "run", f"validation_{by}", min if by == "loss" else max)
    assert list(found["validation"]["metrics"]) == (["bleu"] if by == "bleu" else [])


@pytest.fixture(scope="module")
def given():
    plan = Plan.of(compose_config(["task=demo", "task.max_train=48", "task.max_test=24"]))
    task = plan.task.load()
    loaded = plan.model.load(Answers(CLASSES, 2), 0)
    rows = task.tokenise(loaded.tokenizer, [*task.train, *task.tests["test"]])
    data = {"train": rows[:32], "validation": rows[32:48], "test": rows[48:]}
    return loaded.model, loaded.tokenizer, data


OPTIONS = {"max_steps": 4, "batch_size": 8, "engine": {"evaluate_every": 0.25}}


def test_rows_from_python(given):
    result = finetune(*given, LoRA(rank=2), **OPTIONS).result
    assert result["data"] == {"train": 32, "validation": 16, "test": 24}
    assert result["kept"]["train"]["weights"] == "best"
    last = {**OPTIONS, "engine": {"evaluate_every": 0.25, "keep": "last"}}
    assert finetune(*given, LoRA(rank=2), **last).result["kept"]["train"]["weights"] == "last"


@pytest.mark.parametrize(("method", "stage"), [(AutoLoRA, "search"), (BiLoRA, "train")])
def test_rows_from_python_as_d_val(given, method, stage):
    result = finetune(*given, method(rank=2, split=None), **OPTIONS).result
    assert result["data"] == {"train": 32, "validation": 16, "test": 24}
    assert result["kept"][stage]["weights"] == "last"


def test_rows_from_python_without_validation(given):
    model, tokenizer, rows = given
    data = {"train": rows["train"], "test": rows["test"]}
    with pytest.raises(UserError, match=r"early_stopping=2 has nothing.*data\['validation'\]"):
        finetune(model, tokenizer, data, LoRA(), engine={"early_stopping": 2})
    with pytest.raises(UserError, match=r"split=null.*none"):
        finetune(model, tokenizer, data, AutoLoRA(split=None))
    alone = {"train": rows["train"], "validation": rows["test"]}
    with pytest.raises(UserError, match="keep=best has nothing"):
        finetune(model, tokenizer, alone, LoRA(), engine={"keep": "best"})


def test_of_the_trial_that_was_taken(given, monkeypatch):
    """Not of the last one; a trial that diverges ends neither the search nor the run."""
    model, tokenizer, rows = given
    losses = {}

    def trained(self, training, plain=StageRun.run):
        if self.name == "trial2":
            raise NonFiniteError("the loss is not finite")
        stats = plain(self, training)
        if self.name.startswith("trial"):
            losses[self.name] = stats["validation_loss"]
        return stats

    monkeypatch.setattr(StageRun, "run", trained)
    data = {"train": rows["train"], "test": rows["test"]}
    method = RandomSettings(rank=2, trials=4, draw=("learning_rate", "scale"))
    result = finetune(model, tokenizer, data, method, lr=0.3, **OPTIONS).result
    assert set(losses) == {"trial0", "trial1", "trial3"}
    assert result["validation"]["loss"] == min(losses.values()) != losses["trial3"]
    assert result["validation_loss"] == min(losses.values())
