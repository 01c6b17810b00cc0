"""Sources of training rows from Python: a column of the rows names them."""

import pandas as pd
import pytest
from datasets import Dataset

from bilevel.errors import UserError
from experiments.answers import CLASSES, Answers
from experiments.api import finetune
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.tasks.in_memory import GivenTask
from experiments.tasks.in_memory_rows import from_source, tagged, written
from experiments.tasks.sources import sizes
from problems import ExampleWeights, LearnedSettings, SourceWeights

SMALL = {"max_steps": 3, "batch_size": 8}


@pytest.fixture(scope="module")
def given():
    plan = Plan.of(compose_config(["task=demo", "task.max_train=40", "task.max_test=24"]))
    task = plan.task.load()
    loaded = plan.model.load(Answers(CLASSES, 2), 0)
    train = task.tokenise(loaded.tokenizer, task.train)
    named = [{**row, "site": ("north", 7)[i % 3 == 0]} for i, row in enumerate(train)]
    data = {
        "train": named[:30],
        "validation": named[30:],
        "test": task.tokenise(loaded.tokenizer, task.tests["test"]),
    }
    return loaded.model, loaded.tokenizer, data


@pytest.mark.parametrize("form", [list, iter, Dataset.from_list, pd.DataFrame])
def test_a_weight_for_each_source(given, form):
    model, tokenizer, data = given
    if form == Dataset.from_list:  # a column has one type there
        data = {**data, "train": [{**row, "site": str(row["site"])} for row in data["train"]]}
    data = {**data, "train": form(data["train"])}
    run = finetune(model, tokenizer, data, SourceWeights(rank=2), source_column="site", **SMALL)
    found = {row["source"]: row for row in run.result["source_weights"]["sources"]}
    assert {name: row["examples"] for name, row in found.items()} == {"7": 10, "north": 20}
    assert sum(row["weight"] for row in found.values()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "source_column"),
        ({"source_column": "place"}, r"row 0 of train.*'place'"),
        ({"source_column": 3}, r"source_column=3"),
        ({"source_column": ""}, r"source_column=''"),
    ],
)
def test_sources_that_are_not_there(given, change, words):
    model, tokenizer, data = given
    with pytest.raises(UserError, match=words):
        finetune(model, tokenizer, data, SourceWeights(rank=2), **change, **SMALL)


@pytest.mark.parametrize("name", [None, float("nan"), " ", ["a"]])
def test_a_row_without_a_name(given, name):
    model, tokenizer, data = given
    rows = [dict(row) for row in data["train"]]
    rows[4]["site"] = name
    with pytest.raises(UserError, match="row 4 of train"):
        finetune(
            model,
            tokenizer,
            {**data, "train": rows},
            SourceWeights(rank=2),
            source_column="site",
            **SMALL,
        )


def test_rows_of_tags_and_of_text_keep_their_columns(given):
    tokenizer = given[1]
    row = {"input_ids": [5, 6, 7], "labels": [-100, 1, -100], "site": "a"}
    for example in (
        tagged(row, "row 0", ("O", "B-X"), None),
        written(row, "row 0", tokenizer, False, None),
    ):
        found = from_source(example, row, "site", 0)
        assert found.columns == example.columns
        assert found[:2] == example[:2]
        assert sizes([found]) == {"a": 1}


def test_sources_that_look_alike_are_told(given, caplog):
    rows = [{**row, "site": ("Web", "web")[i % 2]} for i, row in enumerate(given[2]["train"])]
    task = GivenTask({"train": rows}, Answers(CLASSES, 2), given[1], source_column="site")
    assert sizes(task.load().train) == {"Web": 15, "web": 15}
    assert "sources 'Web', 'web' differ" in caplog.text


@pytest.mark.parametrize("method", [ExampleWeights(rank=2), LearnedSettings(rank=2, split=0.5)])
def test_the_other_uses_of_a_second_level(given, method):
    model, tokenizer, data = given
    run = finetune(model, tokenizer, data, method, **SMALL)
    assert run.result["method"] == method.name
    assert run.result["validation"]["trained_on"] is (method.name == "example_weights")
