"""task.streaming=true: trained on without being held, and resumed exactly."""

from pathlib import Path

import pytest

from bilevel.errors import UserError
from experiments import suspects
from experiments.cli import hub
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.run import main
from experiments.stored_data.streamed import StreamedExamples, StreamedRows
from experiments.tasks.glue import Glue
from experiments.training.job import execute
from tests.experiments.cli.test_resume import killed_at
from tests.experiments.refusals import refused
from tests.experiments.stored_data.test_stored_runs import job, jsonl, lines, plain, some_rows
from tests.experiments.training import own_files
from tests.experiments.training.own_files import words
from tests.experiments.training.test_resume_methods import traces

STREAM = ["task.streaming=true", "train.group_by_length=false"]
LORA = ["method=lora", "method.rank=2", "train.epochs=1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for i, split in enumerate(("train", "validation", "test")):
        jsonl(folder / f"{split}.jsonl", some_rows(64 - 24 * i, i))
    return folder


def test_with_a_buffer_for_all_it_is_the_run_from_memory(tiny, data, tmp_path):
    base = [*LORA, "train.group_by_length=false"]
    found = {
        name: execute(Plan.of(compose_config(words(tiny, data, *base, *more))), tmp_path / name)
        for name, more in (("memory", []), ("stream", ["task.streaming=true"]))
    }
    assert lines(tmp_path / "stream") == lines(tmp_path / "memory")
    for file in ("predictions.jsonl", "trained_on.txt", "adapter/adapter_model.safetensors"):
        both = [(tmp_path / name / file).read_bytes() for name in found]
        assert both[0] == both[1]
    assert found["stream"]["train_loss"] == found["memory"]["train_loss"]


def test_two_levels_stream_with_a_validation_file(tiny, data, tmp_path):
    more = ["method=autolora", "method.rank=2", "method.split=null", "train.max_steps=3"]
    found = execute(
        Plan.of(compose_config(words(tiny, data, *more, *STREAM, "task.shuffle_buffer=9"))),
        tmp_path / "run",
    )
    assert found["data"]["train"] == 64
    assert found["data"]["validation"] == 40


def test_a_killed_run_goes_on_exactly(tiny, data, tmp_path):
    run = [*words(tiny, data, *LORA, *STREAM, "task.shuffle_buffer=7"), "train.epochs=2"]
    run = [*dict.fromkeys(run)]
    run.remove("train.epochs=1")
    main([*run, f"hydra.run.dir={tmp_path / 'whole'}"])
    point = ("bilevel.engine", "BilevelEngine", "train_step", 12, True)
    killed_at(point, [*run, f"hydra.run.dir={tmp_path / 'killed'}"])
    main([f"run.resume={tmp_path / 'killed'}"])
    assert traces(tmp_path / "killed") == traces(tmp_path / "whole")


KINDS = {
    "classes": ["task=classification", "task.text_columns=[text,more]"],
    "numbers": [
        "task=classification",
        "task.text_columns=[text]",
        "task.regression=true",
        "task.label_column=score",
    ],
    "label_sets": [
        "task=classification",
        "task.text_columns=[text]",
        "task.multi_label=true",
        "task.label_columns=[a,b]",
    ],
    "tags": ["task=tagging"],
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_reads_the_same_as_a_stream(tiny, data, kind):
    base = [
        "model=hub",
        f"model.pretrained={tiny}",
        f"task.data_dir={data}",
        *KINDS[kind],
        "method=lora",
        "train.batch_size=8",
    ]
    memory, stream = job(base), job([*base, *STREAM])
    assert isinstance(stream.task.train, StreamedExamples)
    assert isinstance(stream.data.examples, StreamedRows)
    assert plain(stream.data.examples) == plain(memory.data.examples)
    assert list(stream.task.train) == list(memory.task.train)
    assert stream.task.answers == memory.task.answers
    assert plain(stream.data.validation) == plain(memory.data.validation)
    assert stream.task.warnings == memory.task.warnings


def test_what_is_wrong_with_a_row_is_told_before_training(tiny, tmp_path):
    rows = some_rows(20, 0)
    rows[13]["text"] = None
    jsonl(tmp_path / "train.jsonl", rows)
    jsonl(tmp_path / "test.jsonl", some_rows(8, 1))
    with pytest.raises(UserError, match=r"line 14 of .*no text"):
        job(words(tiny, tmp_path, *LORA, *STREAM))


REFUSED = {
    "max_train": ["task.max_train=8"],
    "holdout": ["task.holdout=0.2"],
    "drop_sources": ["task.source_column=more", "task.drop_sources=[x]"],
    "source_column": ["task.source_column=more"],
    "trusted": ["task.trusted=8"],
    "label_noise": ["task.label_noise=0.1"],
    "hold_out": ["method.hold_out=0.1"],
    "split": ["method=autolora"],
    "example_weights": ["method=example_weights", "method.split=null"],
    "linear_probe": ["method=linear_probe"],
    "probe": ["run.probe=true"],
    "eva": ["method.peft.init_lora_weights=eva"],
}


@pytest.mark.parametrize("what", list(REFUSED))
def test_what_a_stream_cannot_do_is_refused_before_it_is_read(tiny, tmp_path, what):
    base = words(tiny, tmp_path / "none", "method=lora", *STREAM)
    more = REFUSED[what]
    base = [w for w in base if not any(w.split("=")[0] == m.split("=")[0] for m in more)]
    with pytest.raises(UserError, match=f"{what}(.|\n)*streaming|streaming(.|\n)*{what}"):
        job([*base, *more])


def test_a_stream_from_the_hub(monkeypatch):
    import datasets

    rows = [{"sentence": f"text {i}", "label": i % 2} for i in range(12)]
    asked = []

    def load_dataset(*names, **options):
        asked.append(options)
        stream = datasets.Dataset.from_list(rows).to_iterable_dataset()
        return {"train": stream, "validation": stream}

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    monkeypatch.setattr(hub, "reachable", lambda: True)
    found = Glue(name="sst2", streaming=True).load()
    assert asked == [{"streaming": True}]
    assert isinstance(found.train, StreamedExamples)
    assert [example.label for example in found.train] == [i % 2 for i in range(12)]
    assert len(found.tests["test"]) == 12


def test_suspects_of_a_streamed_run(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = own_files.three_files(tmp_path / "data")
    words = own_files.words(tiny, data, "method=lora", "task.streaming=true", "train.max_steps=2")
    own_files.run(tmp_path / "run", words)
    said = refused(suspects.main, [f"run={tmp_path / 'run'}"], capsys)
    assert "task.streaming=false" in said
