"""The demo's tags: the rules of its language, sizes, and that LoRA learns them."""

from pathlib import Path

import pytest

from bilevel.errors import UserError
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.tasks.demo_tagging import DemoTagging
from experiments.tasks.made_up.lexicon import ADJECTIVES, VERBS
from experiments.tasks.made_up.opinions import TAGS, tagged
from experiments.tasks.reading.iob import to_iob2
from experiments.training.job import execute

NEGATIONS = {"not", "far", "never", "anything", "nobody"}
JOINTS = {"and", "but", "although", ","}


def reader(words):
    """The language's rules, read from the other end: kind of each opinion, in order."""
    text = " ".join(words).replace("anything but", "anything")
    found, negated = [], False
    for word in text.split():
        if word in JOINTS:
            negated = False  # of the clause before
        negated = negated or word in NEGATIONS
        for sign in (+1, -1):
            if word in ADJECTIVES[sign] or any(word in verb for verb in VERBS[sign]):
                found.append("PRAISE" if (sign > 0) != negated else "BLAME")
    return found


def test_tags_follow_the_rules_of_the_language():
    for words, tags in tagged(500, seed=3):
        assert len(words) == len(tags)
        assert set(tags) <= set(TAGS)
        assert [tag[2:] for tag in tags if tag.startswith("B-")] == reader(words)
        assert tags == to_iob2(tags, "iob2", str)


def test_negations_beside_the_word_are_of_the_opinion():
    before = {
        " ".join(word for word, tag in zip(words, tags, strict=True) if tag != "O").rpartition(" ")
        for words, tags in tagged(2000, seed=4)
        if sum(tag.startswith("B-") for tag in tags) == 1
    }
    found = {negation for negation, _, _ in before}
    assert found == {"", "not", "never", "far from", "anything but", "did not"}


def test_sizes_and_no_test_sentence_in_training():
    data = DemoTagging(max_train=100, max_test=150).load()
    assert (len(data.train), len(data.tests["test"])) == (100, 150)
    assert not set(data.train) & set(data.tests["test"])
    assert DemoTagging(max_train=100, data_seed=1).load().train != data.train
    assert data.answers.names == TAGS


@pytest.mark.parametrize("options", [{"max_train": 0}, {"max_test": 0}, {"max_length": 0}])
def test_impossible_tasks(options):
    with pytest.raises(UserError):
        DemoTagging(**options)


def test_lora_learns_it(tmp_path: Path) -> None:
    def f1(*words: str) -> float:
        sizes = ["task.max_train=400", "task.max_test=150", "engine.evaluate_every=0"]
        fixed = ["method=lora", "task=demo_tagging", "train.lr=1e-2", "run.figures=false"]
        values = execute(Plan.of(compose_config([*fixed, *sizes, *words])), tmp_path / words[0])
        return values["metrics"]["f1"]

    # Who knows every opinion word but calls all of them praise has half of them right.
    assert f1("train.max_steps=1") < 0.2
    assert f1("train.epochs=5") > 0.55
