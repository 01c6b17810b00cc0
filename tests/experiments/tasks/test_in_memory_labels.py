"""Names of classes that a data set carries: they are those of the result, and of its model."""

import logging
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bilevel.errors import UserError
from experiments.answers import CLASSES, TAGS, Answers
from experiments.api import finetune
from experiments.tasks.in_memory import GivenTask
from experiments.tasks.in_memory_labels import named
from problems import FullFineTuning

IDS = Features({"input_ids": List(Value("int64")), "labels": Value("int64")})


def rows(names: list[str] | None, numbers: list[Any]) -> Dataset:
    label = Value("int64") if names is None else ClassLabel(names=names)
    tags = List(label) if isinstance(numbers[0], list) else label
    features = Features({**IDS, "labels": tags})
    ids = [[5, 6, 7][: len(n)] if isinstance(n, list) else [5, 6] for n in numbers]
    return Dataset.from_dict({"input_ids": ids, "labels": numbers}, features=features)


def loaded(answers: Answers, **data: Dataset) -> Any:
    return GivenTask(data, named(answers, data)).load()


def test_a_test_set_that_counts_its_classes_otherwise() -> None:
    train, test = rows(["neg", "pos"], [0, 1]), rows(["pos", "neg"], [0, 1, 1])
    data = loaded(Answers(CLASSES, 2, ("LABEL_0", "LABEL_1")), train=train, test=test)
    assert data.answers.names == ("neg", "pos")
    assert [e.label for e in data.tests["test"]] == [1, 0, 0]
    with pytest.raises(UserError, match=r"'test'.*good.*'train'.*neg, pos"):
        loaded(Answers(CLASSES, 2), train=train, test=rows(["good", "bad"], [0, 1]))
    with pytest.raises(UserError, match="num_labels=2"):
        loaded(Answers(CLASSES, 3), train=train, test=test)


def test_tags_too() -> None:
    train = rows(["O", "B-A", "I-A"], [[0, 1, 2]])
    test = rows(["B-A", "I-A", "O"], [[0, 1, 2]])
    data = loaded(Answers(TAGS, 3, ("LABEL_0", "LABEL_1", "LABEL_2")), train=train, test=test)
    assert data.tests["test"][0].tags == ("B-A", "I-A", "O")
    assert data.tests["test"][0].columns["labels"] == [1, 2, 0]


def test_without_names_numbers_count() -> None:
    train, test = rows(None, [0, 1]), rows(["pos", "neg"], [0, 1])
    data = loaded(Answers(CLASSES, 2, ("neg", "pos")), train=train, test=test)
    assert data.answers.names == ("neg", "pos")
    assert [e.label for e in data.tests["test"]] == [0, 1]


def test_the_tuned_model_has_the_names(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    model = AutoModelForSequenceClassification.from_pretrained(
        tiny, id2label={0: "CAT", 1: "DOG"}, label2id={"CAT": 0, "DOG": 1}
    )
    data = {"train": rows(["neg", "pos"], [0, 1] * 8), "test": rows(["pos", "neg"], [0, 1])}
    with caplog.at_level(logging.WARNING):
        run = finetune(model, tokenizer, data, FullFineTuning(), max_steps=1, batch_size=8)
    assert run.result["labels"] == ["neg", "pos"]
    assert run.model.config.id2label == {0: "neg", 1: "pos"}
    assert model.config.id2label == {0: "CAT", 1: "DOG"}
    assert "CAT, DOG" in caplog.text
