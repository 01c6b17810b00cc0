"""Whole runs of tasks of written text, from the command line's words to result.json."""

import json
from pathlib import Path

import pytest

from bilevel.errors import UserError
from experiments import evaluate, ranks
from experiments.answers import Decoding
from experiments.comparing import predictions
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.tasks.examples import TextExample
from experiments.tasks.kinds.text import TextData
from experiments.training.job import execute
from tests.experiments import writers

QUICK = [
    "model=hub",
    "train.batch_size=4",
    "train.max_steps=2",
    "train.lr=1e-2",
    "engine.precision=fp32",
    "run.figures=false",
    "task.decoding.max_new_tokens=8",
    "task.decoding.beams=2",
    "task.metrics=[bleu,rougeL]",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Words to be told backwards, in the form of XSum."""
    path = tmp_path_factory.mktemp("data")
    for split, count in (("train", 24), ("validation", 8), ("test", 6)):
        rows = []
        for i in range(count):
            words = [f"w{(i + k * k) % writers.WORDS}" for k in range(3 + i % 4)]
            rows.append({"document": " ".join(words), "summary": " ".join(reversed(words))})
        (path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return path


def words(data: Path, model: Path, *more: str) -> list[str]:
    return [*QUICK, "task=xsum", f"task.data_dir={data}", f"model.pretrained={model}", *more]


def run(folder: Path, options: list[str]) -> dict:
    execute(Plan.of(compose_config(options)), folder)
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize("kind", ["gpt2", "bart", "t5"])
def test_a_run(kind, data, tmp_path, capsys):
    model = writers.folder(tmp_path / "model", kind)
    found = run(tmp_path / "run", words(data, model, "method=lora", "method.rank=2"))
    assert set(found["metrics"]) == {"bleu", "rougeL"}
    assert found["data"] == {"train": 24, "validation": 8, "test": 6}
    assert (found["train_source"], found["test_source"]) == ("train", "test")
    told = [json.loads(x) for x in (tmp_path / "run/predictions.jsonl").read_text().splitlines()]
    asked = [json.loads(x) for x in (data / "test.jsonl").read_text().splitlines()]
    assert [x["target"] for x in told] == [x["summary"] for x in asked]
    assert all(isinstance(x["prediction"], str) for x in told)
    read = predictions.read(tmp_path / "run", found)
    assert read.loss.value == pytest.approx(found["test_loss"], abs=1e-5)
    assert read.scores["rougeL"].value == pytest.approx(found["metrics"]["rougeL"], abs=1e-9)
    evaluate.main([f"run={tmp_path / 'run'}"])  # once more, from the files
    printed = capsys.readouterr().out
    assert f"{found['metrics']['bleu']:.4f}" in printed


def test_ranks_of_query_and_value_that_are_saved_as_one_matrix(data, tmp_path):
    model = writers.folder(tmp_path / "model", "gpt2")
    options = words(data, model, "method=lora", "method.rank=2", "engine.keep=last")
    run(tmp_path / "run", [*options, "train.max_steps=16"])
    ranks.main([f"run={tmp_path / 'run'}", "rank=1"])
    found = json.loads((tmp_path / "run" / "ranks.json").read_text())
    assert {name.rpartition(".")[2] for name in found["ranks"]} == {"c_attn"}
    assert found["decided"]["records"] == 4
    assert found["decided"]["near"] in range(found["decided"]["components"] + 1)
    assert found["decided"]["components"] == 4 * len(found["ranks"])


def test_a_model_as_it_is_without_training_data(data, tmp_path):
    model = writers.folder(tmp_path / "model", "bart")
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "test.jsonl").write_text((data / "test.jsonl").read_text())
    options = words(alone, model, "method=pretrained", "task.train_split=null")
    found = run(tmp_path / "run", options)
    assert found["data"] == {"train": 0, "test": 6}
    assert found["train_source"] is found["train_loss"] is found["update"] is None
    assert found["engine"]["steps"] == found["seconds"] == {}
    assert (found["trainable_parameters"], found["test_loss"] > 0) == (0, True)
    # with training data the scores are the same, and there is a training loss
    again = run(tmp_path / "again", words(data, model, "method=pretrained"))
    assert again["data"] == {"train": 24, "validation": 8, "test": 6}
    assert again["metrics"] == found["metrics"]
    assert again["train_loss"] > 0


def test_a_model_that_was_trained_as_a_whole_is_a_model_to_start_from(data, tmp_path):
    model = writers.folder(tmp_path / "model", "gpt2")
    first = run(tmp_path / "first", words(data, model, "method=full"))
    own = tmp_path / "first" / "model"
    again = run(tmp_path / "again", words(data, own, "method=pretrained"))
    assert again["metrics"] == first["metrics"]  # by the tokenizer that lies beside it
    assert again["test_loss"] == pytest.approx(first["test_loss"], rel=1e-6)


def test_nothing_to_train_on(data, tmp_path):
    model = writers.folder(tmp_path / "model", "gpt2")
    options = words(data, model, "method=lora", "task.train_split=null")
    with pytest.raises(UserError, match=r"training data.*method=pretrained"):
        run(tmp_path / "run", options)


def test_an_encoder_is_refused_before_anything_is_tokenised(data, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.tasks.kinds.text.TextData.tokenise", None)
    with pytest.raises(UserError, match=r"encoder.*text"):
        run(tmp_path / "run", words(data, tiny, "method=pretrained"))


def test_a_target_that_does_not_fit(data, tmp_path):
    model = writers.folder(tmp_path / "model", "gpt2")
    long = tmp_path / "long"
    long.mkdir()
    row = json.dumps({"document": "w1", "summary": "w2 " * writers.POSITIONS})
    for split in ("train", "test"):
        (long / f"{split}.jsonl").write_text("\n".join([row] * 4))
    options = words(long, model, "method=pretrained", "task.max_target_length=null")
    with pytest.raises(UserError, match=r"example 0 .*65.*max_target_length"):
        run(tmp_path / "run", options)


def test_a_model_that_knows_hardly_a_word_is_refused():
    task = TextData("t", [], {}, "test", ("bleu",), 32, decoding=Decoding(max_new_tokens=8))
    tokenizer = writers.tokenizer()
    # the end of text is a token too
    assert task.tokenise(tokenizer, [TextExample("w1", "w1 w2 two three")])
    with pytest.raises(UserError, match=r"3 of the 5.*unknown"):
        task.tokenise(tokenizer, [TextExample("w1", "w1 two three four")])


@pytest.mark.parametrize("split", ["test", "dev"])
def test_the_test_set_is_not_trained_on(split, data, tmp_path):
    with pytest.raises(UserError, match=r"task\.train_split.*validation"):
        Plan.of(compose_config(words(data, tmp_path, f"task.train_split={split}")))
