"""Tags, numbers and text from Python: the same digits as the command line's."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from bilevel.errors import UserError
from experiments.answers import TAGS, Answers, Decoding
from experiments.api import finetune, search_ranks
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.models.spec import ModelSpec
from experiments.tasks.in_memory_rows import tagged, written
from experiments.training.job import execute
from problems import AutoLoRA, LoRA
from tests.experiments import writers

SAME = ("metrics", "test_loss", "train_loss", "ranks", "adapter_parameters", "head_parameters")
QUICK = ["train.batch_size=4", "train.max_steps=3", "train.lr=1e-2", "engine.precision=fp32"]
SETTINGS: dict[str, Any] = {"batch_size": 4, "max_steps": 3, "lr": 1e-2}
SETTINGS |= {"engine": {"precision": "fp32"}, "target_modules": "qv"}


def shared(values: dict[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in SAME}


def tagger(tiny: Path) -> Any:
    names = {0: "O", 1: "B-A", 2: "I-A"}
    return AutoModelForTokenClassification.from_pretrained(tiny, num_labels=3, id2label=names)


@pytest.mark.parametrize("kind", ["gpt2", "bart", "t5"])
def test_text(kind: str, tmp_path: Path) -> None:
    writers.model(kind).save_pretrained(tmp_path / "model")
    writers.tokenizer().save_pretrained(tmp_path / "model")
    for split, count in (("train", 16), ("test", 6)):
        told = [[f"w{(i + k) % writers.WORDS}" for k in range(2 + i % 3)] for i in range(count)]
        rows = [{"source": " ".join(t), "target": " ".join(reversed(t))} for t in told]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = ["task=text_to_text", f"task.data_dir={tmp_path}", "model=hub", "run.figures=false"]
    options += ["task.source_column=source", "task.target_column=target", "task.metrics=[bleu]"]
    options += [f"model.pretrained={tmp_path / 'model'}", "task.decoding.max_new_tokens=6"]
    plan = Plan.of(compose_config([*options, *QUICK, "task.decoding.beams=2", "method=autolora"]))
    there = execute(plan, tmp_path / "there")

    task, loaded = plan.task.load(), plan.model.load(plan.task.load().answers, 0)
    rows = {
        name: [
            {**row, "references": list(example.references) or [example.target]}
            for row, example in zip(
                task.tokenise(loaded.tokenizer, examples, loaded.seq2seq), examples, strict=True
            )
        ]
        for name, examples in (("train", task.train), ("test", task.tests["test"]))
    }
    here = finetune(
        loaded.model,
        loaded.tokenizer,
        rows,
        AutoLoRA(),
        decoding=Decoding(beams=2, max_new_tokens=6),
        folder=tmp_path / "here",
        **SETTINGS,
    )
    assert shared(here.result) == shared(there)
    written = [
        [json.loads(line) for line in (tmp_path / place / "predictions.jsonl").open()]
        for place in ("here", "there")
    ]
    assert written[0] == written[1]
    assert len(written[0]) == 6


def test_tags(tiny: Path, tmp_path: Path) -> None:
    tagged = {"tokens": ["the", "film", "is", "good"], "ner_tags": ["O", "B-A", "I-A", "B-B"]}
    for split, count in (("train", 24), ("test", 6)):
        (tmp_path / f"{split}.jsonl").write_text("\n".join([json.dumps(tagged)] * count))
    options = ["task=tagging", f"task.data_dir={tmp_path}", "model=hub", "run.figures=false"]
    plan = Plan.of(compose_config([*options, f"model.pretrained={tiny}", *QUICK, "method=lora"]))
    there = execute(plan, tmp_path / "there")

    task = plan.task.load()
    loaded = ModelSpec("x", pretrained=str(tiny)).load(task.answers, 0)
    assert task.answers.kind == TAGS
    rows = {
        "train": task.tokenise(loaded.tokenizer, task.train),
        "test": task.tokenise(loaded.tokenizer, task.tests["test"]),
    }
    here = finetune(loaded.model, loaded.tokenizer, rows, LoRA(), **SETTINGS)
    assert shared(here.result) == shared(there)
    assert list(here.result["metrics"]) == ["f1", "precision", "recall", "token_accuracy"]


def test_a_number(tiny: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=1)
    tokenizer = ModelSpec("x", pretrained=str(tiny)).load(Answers(TAGS, 2), 0).tokenizer
    rows = [{**tokenizer("the film"), "label": i / 7} for i in range(16)]
    run = finetune(model, tokenizer, {"train": rows, "test": rows}, LoRA(), **SETTINGS)
    assert set(run.result["metrics"]) == {"pearson", "spearman"}
    values = torch.tensor([row["label"] for row in rows])
    # one prediction for all, so the loss is the variance and more
    assert run.result["test_loss"] >= float(values.var(unbiased=False))


def test_ranks_of_a_model_that_writes() -> None:
    rows = [
        {"input_ids": [4 + i % 4, 4 + i // 4, 1, 6, 7, 2], "labels": [-100] * 3 + [6, 7, 2]}
        for i in range(16)  # none stands on both sides of the split
    ]
    settings = {k: v for k, v in SETTINGS.items() if k != "target_modules"}
    config, frontier = search_ranks(writers.model("gpt2"), writers.tokenizer(), rows, **settings)
    assert frontier.examples == 3
    assert config.task_type == "CAUSAL_LM"
    assert config.r >= 1


TOKENS = {"input_ids": [4, 5, 1, 6, 2]}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({}, "row 0 of train has no 'labels' .or 'label'., only input_ids"),
        ({"labels": 1}, "row 0 of train has the label 1: this model needs a list, one a token"),
        ({"labels": [6, 2]}, "row 0 of train has 5 tokens and 2 labels"),
        ({"labels": [4, 5, 1, 6, 2]}, "must have the label -100 over its first tokens"),
        ({"labels": [-100] * 5}, "must have the label -100 over its first tokens"),
        ({"labels": [4, 5, -100, 6, 2]}, "must have the label -100 over its first tokens"),
    ],
)
def test_rows_that_are_no_text(row: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        search_ranks(writers.model("gpt2"), writers.tokenizer(), [{**TOKENS, **row}])


def test_an_answer_that_does_not_fit() -> None:
    row = {"input_ids": [4] * 60 + [2], "labels": [-100] * 60 + [2]}
    data = {"train": [row] * 40, "test": [row]}
    with pytest.raises(UserError, match=r"row 0 of test has 60 tokens, and decoding\.max"):
        finetune(writers.model("gpt2"), writers.tokenizer(), data)
    with pytest.raises(UserError, match=r"^decoding\.max_new_tokens=99 exceeds .* 64"):
        finetune(
            writers.model("bart"), writers.tokenizer(), data, decoding=Decoding(max_new_tokens=99)
        )


def test_rows_longer_than_the_model() -> None:
    row = {"input_ids": [4] * 65, "labels": [-100] * 60 + [2] * 5}
    with pytest.raises(UserError, match="row 0 of train has 65 tokens, and the model takes 64"):
        search_ranks(writers.model("gpt2"), writers.tokenizer(), [row])
    row = {"input_ids": [4] * 5, "labels": [5] * 65}
    with pytest.raises(UserError, match="row 0 of train has 65 labels, and the model takes 64"):
        search_ranks(writers.model("bart"), writers.tokenizer(), [row])
    with pytest.raises(UserError, match="row 0 of train has no tokens"):
        search_ranks(writers.model("bart"), writers.tokenizer(), [{"input_ids": [], "labels": []}])


@pytest.mark.parametrize("given", [None, []])
def test_without_references_the_labels_are_the_one(given: list[str] | None) -> None:
    row = {"input_ids": [4, 1, 5, 6, 2], "labels": [-100, -100, 5, 6, 2], "references": given}
    assert written(row, "here", writers.tokenizer(), False, None).references == ("w1 w2",)


@pytest.mark.parametrize(
    ("words", "kept"),
    [(["a", "b", "cut"], ("a", "b")), (["a"], ()), ("a b", ()), (None, ())],
)
def test_words_of_tags(words: Any, kept: tuple[str, ...]) -> None:
    row = {"input_ids": [4, 5], "labels": [0, 1], "words": words}
    example = tagged(row, "here", ["O", "B-A"], None)
    assert (example.words, example.tags) == (kept, ("O", "B-A"))


def test_a_model_of_another_kind(tiny: Path) -> None:
    model = AutoModel.from_pretrained(tiny)
    with pytest.raises(UserError, match=r"BertModel puts out neither classes, a number, tags nor"):
        finetune(model, writers.tokenizer(), {"train": [], "test": []})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"warmup_steps": -3}, r"train\.warmup_steps=-3.*0 or more"),
        ({"warmup_steps": 2.5}, r"train\.warmup_steps=2\.5.*integer"),
        ({"epochs": -1}, r"train\.epochs=-1.*more than 0"),
        ({"lr": 0}, r"train\.lr=0.*more than 0"),
        ({"label_smoothing": 2.0}, r"train\.label_smoothing=2\.0.*in \[0, 1\)"),
        ({"gradient_clipping": -1}, r"train\.gradient_clipping=-1.*0 or more"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], said: str) -> None:
    rows = [{**TOKENS, "labels": [-100, -100, -100, 6, 2]}]
    with pytest.raises(UserError, match=said):
        search_ranks(writers.model("gpt2"), writers.tokenizer(), rows, **settings)


@pytest.mark.parametrize(
    ("labels", "said"),
    [([0, 1], "has 3 tokens and 2 labels"), ([0, 1, 5], "has the label 5: allowed are -100")],
)
def test_rows_that_are_no_tags(labels: list[int], said: str, tiny: Path) -> None:
    with pytest.raises(UserError, match=said):
        search_ranks(
            tagger(tiny), writers.tokenizer(), [{"input_ids": [4, 5, 6], "labels": labels}]
        )


def test_what_belongs_to_another_kind(tiny: Path) -> None:
    rows = {"train": [], "test": []}
    with pytest.raises(UserError, match="decoding= is for models that write text"):
        finetune(tagger(tiny), writers.tokenizer(), rows, decoding=Decoding())
    with pytest.raises(UserError, match="unknown metric 'accuracy': allowed are f1"):
        finetune(tagger(tiny), writers.tokenizer(), rows, metrics=["accuracy"])


def test_entities_need_names(tiny: Path) -> None:
    model = AutoModelForTokenClassification.from_pretrained(tiny, num_labels=3)
    row = {"input_ids": [4, 5, 6], "labels": [0, 1, 2]}
    data = {"train": [row] * 8, "test": [{**row, "labels": [-100] * 3}]}
    with pytest.raises(UserError, match="names like 'LABEL_0', and entities are told by O, B-TYPE"):
        finetune(model, writers.tokenizer(), data, LoRA(), **SETTINGS)
    with pytest.raises(UserError, match=r"data\['test'\] has no token with a label"):
        finetune(tagger(tiny), writers.tokenizer(), data, LoRA(), **SETTINGS)
    data["test"] = [row]
    only = ["token_accuracy"]
    run = finetune(model, writers.tokenizer(), data, LoRA(), metrics=only, **SETTINGS)
    assert set(run.result["metrics"]) == set(only)
