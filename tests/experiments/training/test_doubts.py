"""What is said of results that mean little."""

import json
import re

import numpy as np
import pytest

from experiments.tasks.examples import Example, TaggedExample, TextExample
from experiments.tasks.kinds.labelled import LabelledData
from experiments.tasks.kinds.tags import TaggedData
from experiments.tasks.kinds.text import TextData
from experiments.training.doubts import about_predictions, about_training, about_upper_steps


def task(kind, tests, **more):
    return kind(
        name="t",
        train=[],
        tests=tests,
        test_source="test",
        metrics=more.pop("metrics"),
        max_length=16,
        **more,
    )


def classes(labels):
    tests = {"test": [Example(("x",), label) for label in labels]}
    return task(LabelledData, tests, metrics=("accuracy",), label_names=["neg", "pos"])


@pytest.mark.parametrize(
    ("labels", "said", "words"),
    [
        ([0, 0, 0, 1], [0, 0, 0, 0], "answered by 'neg': a constant"),
        ([0, 0, 0, 1], [1, 1, 1, 1], "answered by 'pos': a constant"),
        ([0, 0, 0, 1], [0, 0, 1, 1], None),  # the verdict holds it against the larger class
        ([0, 0, 1, 1], [0, 0, 1, 0], None),
        ([1], [1], None),
    ],
)
def test_classes(labels, said, words):
    found = about_predictions(classes(labels), {"test": list(np.eye(2)[said])})
    assert len(found) == (words is not None)
    assert not found or re.search(words, found[0])


def test_each_test_set_by_its_name():
    tests = {name: [Example(("x",), i % 2) for i in range(4)] for name in ("a", "b")}
    data = task(LabelledData, tests, metrics=("accuracy",), label_names=["neg", "pos"])
    right, constant = list(np.eye(2)[[0, 1, 0, 1]]), list(np.eye(2)[[1, 1, 1, 1]])
    (found,) = about_predictions(data, {"a": right, "b": constant})
    assert found.startswith("the test set b: ")


@pytest.mark.parametrize(("spread", "doubted"), [(1e-4, True), (0.5, False)])
def test_numbers(spread, doubted):
    labels = [0.0, 2.0, 4.0]
    data = task(LabelledData, {"test": [Example(("x",), x) for x in labels]}, metrics=("pearson",))
    said = [np.array([2 + spread * x]) for x in labels]
    assert bool(about_predictions(data, {"test": said})) == doubted


@pytest.mark.parametrize(("tags", "doubted"), [(["O", "O"], True), (["B-A", "O"], False)])
def test_tags(tags, doubted):
    rows = [TaggedExample(("a", "b"), ("B-A", "O")), TaggedExample(("c",), ("O",))]
    names = ("O", "B-A", "I-A")
    data = task(TaggedData, {"test": rows}, metrics=("f1",), tag_names=names)
    found = about_predictions(data, {"test": [tags, ["O"]]})
    assert bool(found) == doubted
    assert not doubted or "the tag 'O': a constant" in found[0]


@pytest.mark.parametrize(
    ("sources", "said", "doubted"),
    [("ab", ["x", "x"], True), ("ab", ["x", "y"], False), ("aa", ["x", "x"], False)],
)
def test_text(sources, said, doubted):
    rows = [TextExample(source, "t", ("t",)) for source in sources]
    data = task(TextData, {"test": rows}, metrics=("bleu",))
    assert bool(about_predictions(data, {"test": said})) == doubted


@pytest.mark.parametrize(
    ("losses", "doubted"),
    [([1.0, 0.9, 1.1, 1.2], True), ([1.0, 1.0], True), ([1.0, 2.0, 2.0, 0.9], False), ([1], False)],
)
def test_a_training_loss_that_never_fell(losses, doubted, tmp_path):
    lines = [
        {"stage": stage, "step": i, "kind": kind, "lower_loss": loss}
        for stage, kind, shift in (("a", "train", 0), ("a", "validation", 9), ("b", "train", 9))
        for i, loss in enumerate(x - shift * i for i, x in enumerate(losses))
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    found = about_training("a", path, "lower_loss")
    assert (found is not None) == doubted
    assert found is None or "did not fall" in found


def test_few_upper_steps():
    assert about_upper_steps("search", 50) is None
    assert "only 49 steps" in about_upper_steps("search", 49)
