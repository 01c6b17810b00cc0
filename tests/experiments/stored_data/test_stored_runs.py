"""Runs whose data lie on the disk: the same as in memory, bit by bit, for every kind of task."""

import json

import pytest

from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.training.fine_tuning_job import FineTuningJob, load_task
from experiments.training.job import execute
from tests.experiments.training.own_files import sentences, words, write

NUMBERS = {
    "run": ["method=lora", "method.rank=2", "train.epochs=1"],
    "bilevel": ["method=autolora", "method.rank=2", "method.search_epochs=0.5", "train.epochs=1"],
}


def rows_of(size, seed=0):
    return [{**row, "more": f"and {i % 7}"} for i, row in enumerate(sentences(size, seed))]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return write(folder, train=rows_of(64), validation=rows_of(24, 1), test=rows_of(16, 2))


def lines(folder):
    """What metrics.jsonl says, without times."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "second" not in k} for line in found]


@pytest.mark.parametrize("method", list(NUMBERS))
def test_a_run_from_the_disk_is_the_run_from_memory(tiny, data, tmp_path, method):
    found = {}
    for name, most in (("memory", "null"), ("disk", "8"), ("again", "8")):
        more = [f"engine.cache_from={most}", f"engine.cache_dir={tmp_path / 'cache'}"]
        config = compose_config(words(tiny, data, *NUMBERS[method], *more))
        found[name] = execute(Plan.of(config), tmp_path / name)
    for name in ("disk", "again"):
        assert lines(tmp_path / name) == lines(tmp_path / "memory")
        for file in ("predictions.jsonl", "trained_on.txt", "adapter/adapter_model.safetensors"):
            assert (tmp_path / name / file).read_bytes() == (
                tmp_path / "memory" / file
            ).read_bytes()
        assert found[name]["validation"] == found["memory"]["validation"]
        assert found[name]["metrics"] == found["memory"]["metrics"]


def job(words):
    plan = Plan.of(compose_config(words))
    return FineTuningJob.load(plan, load_task(plan))


def plain(rows):
    return [dict(row) for row in rows]


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_an_entry_is_found_whatever_was_tokenised_before(tiny, data, tmp_path):
    """The second time the training set is found, and the tokenizer has cut nothing yet."""
    cache = tmp_path / "cache"
    asked = words(tiny, data, "method=lora", "engine.cache_from=0", f"engine.cache_dir={cache}")
    names = []
    for _ in range(2):
        job(asked)
        names.append(sorted(path.name for path in cache.glob("*.arrow")))
    assert len(names[0]) == 3
    assert names[1] == names[0]


KINDS = {
    "pairs": ["task=classification", "task.text_columns=[text,more]"],
    "regression": [
        "task=classification",
        "task.text_columns=[text]",
        "task.regression=true",
        "task.label_column=score",
    ],
    "label_sets": [
        "task=classification",
        "task.text_columns=[text]",
        "task.multi_label=true",
        "task.label_column=several",
    ],
    "marks": [
        "task=classification",
        "task.text_columns=[text]",
        "task.multi_label=true",
        "task.label_columns=[a,b]",
    ],
    "sources": [
        "task=classification",
        "task.text_columns=[text]",
        "task.source_column=more",
        "task.drop_sources=['and 3']",
    ],
    "held_out": [
        "task=classification",
        "task.text_columns=[text]",
        "task.max_train=40",
        "task.max_test=9",
    ],
    "tags": ["task=tagging"],
}


def some_rows(size, seed):
    found = []
    for i, row in enumerate(rows_of(size, seed)):
        tokens = row["text"].split()
        tags = ["B-X" if j == i % len(tokens) else "O" for j in range(len(tokens))]
        found.append(
            {
                **row,
                "score": i / 8,
                "several": ["a", "b"][: i % 3],
                "a": i % 2,
                "b": int(i % 3 == 0),
                "tokens": tokens,
                "ner_tags": tags,
            }
        )
    return found


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_of_task_reads_the_same_from_the_disk(tiny, tmp_path, kind):
    for i, split in enumerate(("train", "validation", "test")):
        jsonl(tmp_path / f"{split}.jsonl", some_rows(40 + 8 * i, i))
    base = [
        "model=hub",
        f"model.pretrained={tiny}",
        f"task.data_dir={tmp_path}",
        *KINDS[kind],
        "method=lora",
        "train.batch_size=8",
    ]
    memory = job([*base, "engine.cache_from=null"])
    disk = job([*base, "engine.cache_from=4", f"engine.cache_dir={tmp_path / 'cache'}"])
    for name in ("examples", "validation"):
        assert plain(getattr(disk.data, name)) == plain(getattr(memory.data, name))
    assert plain(disk.tests["test"]) == plain(memory.tests["test"])
    assert list(disk.task.train) == list(memory.task.train)
    assert disk.task.answers == memory.task.answers
    assert list(disk.data.lengths) == list(memory.data.lengths)
    assert disk.data.labels == memory.data.labels
    assert disk.data.sources == memory.data.sources
    assert disk.warnings == memory.warnings
    assert disk.task.warnings == memory.task.warnings


def test_text_reads_the_same_from_the_disk(tmp_path):
    rows = [
        {"source": f"{row['text']} {i % 5}", "target": [row["label"], row["label"] * 2]}
        for i, row in enumerate(sentences(40))
    ]
    jsonl(tmp_path / "all.jsonl", rows)
    base = [
        "model=demo_causal",
        f"task.data_dir={tmp_path}/all.jsonl",
        "task=text_to_text",
        "task.holdout=0.25",
        "method=lora",
        "train.batch_size=8",
        "task.metrics=[bleu]",
        "task.decoding.max_new_tokens=8",
        "task.max_length=20",
    ]
    memory = job([*base, "engine.cache_from=null"])
    disk = job([*base, "engine.cache_from=4", f"engine.cache_dir={tmp_path / 'cache'}"])
    assert plain(disk.data.examples) == plain(memory.data.examples)
    assert list(disk.task.tests["test"]) == list(memory.task.tests["test"])
    assert list(disk.task.train) == list(memory.task.train)
    assert memory.warnings
    assert disk.warnings == memory.warnings
