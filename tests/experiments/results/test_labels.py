"""Labels by their names: a finished run on other data, and in every model that is saved."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
)

from bilevel.errors import UserError
from experiments import evaluate, export
from experiments.answers import CHOICES, CLASSES, NUMBER, TAGS, Answers
from experiments.cli.command_line import CommandLine
from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.models.spec import ModelSpec
from experiments.results import finished_run, record
from experiments.results.finished_run import SavedRun
from experiments.results.labels import matched
from experiments.run import main
from experiments.tasks.classification import Classification
from experiments.tasks.demo import Demo
from experiments.tasks.examples import ChoiceExample
from experiments.tasks.glue import Glue
from experiments.tasks.gyafc import Gyafc
from experiments.tasks.instructions import Instructions
from experiments.tasks.kinds.choices import ChoiceData
from experiments.tasks.tagging import Tagging
from experiments.tasks.text_to_text import TextToText
from experiments.training.job import execute

EXAMPLES = Demo(max_train=64, max_test=40).load()


def write(folder: Path, names: list[Any], **splits: list[Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, examples in splits.items():
        rows = [{"text": e.texts[0], "label": names[e.label]} for e in examples]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def words(model: Path, data: Path) -> list[str]:
    return [
        *("task=classification", "task.text_columns=[text]", f"task.data_dir={data}"),
        *("model=hub", f"model.pretrained={model}", "train.max_steps=2", "train.batch_size=8"),
        *("engine.precision=fp32", "run.figures=false", "engine.evaluate_every=0"),
    ]


@pytest.fixture(scope="module")
def finished(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained on neg and pos."""
    folder = tmp_path_factory.mktemp("labels")
    test = EXAMPLES.tests["test"]
    data = write(folder / "data", ["neg", "pos"], train=EXAMPLES.train, test=test)
    out = folder / "run"
    main([*words(tiny, data), "method=lora", "method.rank=2", f"hydra.run.dir={out}"])
    return out


def test_other_data_is_scored_by_the_labels_names(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of one label more in the training file, before the others: the numbers all shift."""
    test = EXAMPLES.tests["test"]
    more = [*EXAMPLES.train, EXAMPLES.train[0]._replace(label=2)]
    data = write(tmp_path / "data", ["neg", "pos", "a third"], train=more, test=test)
    evaluate.main([f"run={finished}", f"task.data_dir={data}"])
    there = record.read(finished)
    assert there is not None
    line = next(row for row in capsys.readouterr().out.splitlines() if "accuracy" in row)
    assert line.split()[1] == f"{there['metrics']['accuracy']:.4f}"


@pytest.mark.parametrize("name", ["test", "validation", "reviews"])
def test_data_without_a_training_file_is_scored(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """As the run was, since it is the same test set; a single file by itself too."""
    test = EXAMPLES.tests["test"]
    alone = write(tmp_path / "alone", ["neg", "pos"], **{name: test})
    for place in (alone, alone / f"{name}.jsonl"):
        evaluate.main([f"run={finished}", f"task.data_dir={place}"])
        said = capsys.readouterr().out
        result = record.read(finished)
        assert result is not None
        assert f"accuracy             {record.shown(result['metrics']['accuracy'])} " in said
    strange = write(tmp_path / "strange", ["bad", "pos"], test=test)
    with pytest.raises(SystemExit):
        evaluate.main([f"run={finished}", f"task.data_dir={strange}"])
    assert "'bad' is unknown (the training labels are neg, pos)" in capsys.readouterr().err


def test_other_data_in_one_file_is_scored_whole(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that held a share of its one file out does so of its own file alone."""
    data = write(tmp_path / "data", ["neg", "pos"], reviews=EXAMPLES.train, more=EXAMPLES.train)
    own, other = data / "reviews.jsonl", data / "more.jsonl"
    out = tmp_path / "run"
    main([*words(tiny, own), "task.holdout=0.25", "method=lora", f"hydra.run.dir={out}"])

    warned: list[Any] = []
    monkeypatch.setattr(finished_run.log, "warning", lambda *said: warned.append(said))

    def tested(*given: str) -> int:
        line = CommandLine.parse(given)
        return len(SavedRun.open(str(out), line, line.overrides).task().tests["test"])

    share, whole = round(0.25 * len(EXAMPLES.train)), len(EXAMPLES.train)
    link = tmp_path / "link"
    link.symlink_to(data)
    assert tested() == tested(f"task.data_dir={link / own.name}") == share
    assert not warned
    assert tested(f"task.data_dir={other}") == whole
    assert "all of it is scored" in warned[0][0]
    assert warned[0][1:] == (str(other), "holdout", 0.25)
    assert tested(f"task.data_dir={other}", "task.holdout=0.25") == share


def test_every_kind_scores_one_file_whole(tmp_path: Path) -> None:
    rows = [{"source": str(i), "instruction": str(i), "target": "b"} for i in range(8)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({**row, "output": "b"}) for row in rows))
    text = TextToText(data_dir=str(path), holdout=0.25)
    orders = Instructions(data_dir=str(path), input_column=None, test_share=0.25)
    for task in (text, orders):
        assert len(task.to_score(None).tests["test"]) == 2
        assert len(task.scored_whole().to_score(None).tests["test"]) == 8
    path = tmp_path / "words.conll"
    path.write_text("Ann B-PER\n\n" * 8)
    tagging = Tagging(data_dir=str(path), holdout=0.25)
    assert len(tagging.scored_whole().to_score(("O", "B-PER", "I-PER")).tests["test"]) == 8


def test_every_kind_is_scored_without_training_data(tmp_path: Path) -> None:
    def folder(name: str, **files: str) -> str:
        (tmp_path / name).mkdir()
        for split, text in files.items():
            (tmp_path / name / split.replace("__", ".")).write_text(text)
        return str(tmp_path / name)

    numbers = folder("numbers", test__csv="text,label\na,0.5\nb,2\n")
    data: Any = Classification(data_dir=numbers, text_columns="text", regression=True)
    assert [e.label for e in data.to_score(None).tests["test"]] == [0.5, 2.0]
    sets = folder("sets", dev__csv="text,label\na,x;y\nb,\n")
    data = Classification(
        data_dir=sets, text_columns="text", multi_label=True, label_separator=";"
    ).to_score(["x", "y", "z"])
    assert [e.labels for e in data.tests["test"]] == [(0, 1), ()]
    assert (data.label_names, data.train, data.train_source) == (["x", "y", "z"], [], None)
    tags = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    words = folder("words", test__conll="Ann B-PER\nLee I-PER\n")
    assert Tagging(data_dir=words).to_score(tags).tag_names == tags
    text = folder("text", test__csv="source,target\na,b\na,c\n")
    data = TextToText(data_dir=text).to_score(None)
    assert [e.references for e in data.tests["test"]] == [("b", "c")]
    cola = folder("cola", dev__csv="sentence,label\na,acceptable\n")
    assert [e.label for e in Glue(name="cola", data_dir=cola).to_score(None).tests["test"]] == [1]
    gyafc = tmp_path / "gyafc"
    (gyafc / "test").mkdir(parents=True)
    for style in ("formal", "informal"):
        (gyafc / "test" / style).write_text("Hello.\n")
    data = Gyafc(data_dir=str(gyafc)).to_score(["informal", "formal"])
    assert [e.label for e in data.tests["test"]] == [0, 1]
    assert data.validation is None
    for task in (Glue(name="cola", data_dir=cola), TextToText(data_dir=text)):
        with pytest.raises(UserError, match="train"):
            task.load()  # to train it has to be there


def test_a_run_from_when_true_was_called_1_is_scored_still(tmp_path: Path) -> None:
    for split in ("train", "test"):
        rows = ['{"text": "a", "label": true}', '{"text": "b", "label": false}']
        (tmp_path / f"{split}.jsonl").write_text("\n".join(rows))
    task = Classification(data_dir=str(tmp_path), text_columns="text").load()
    assert task.label_names == ["false", "true"]
    kept = matched(task, {"kind": CLASSES, "labels": ["0", "1"]}, "RUN")
    assert [e.label for e in kept.tests["test"]] == [1, 0]


@pytest.mark.parametrize("names", [[1, 0], [0, 1], ["bad", "good"], ["NEG", "POS"]])
@pytest.mark.parametrize("program", [evaluate.main, export.main])
def test_other_labels_are_refused(
    finished: Path, tmp_path: Path, names: list[Any], program: Any, capsys: Any
) -> None:
    data = write(tmp_path / "data", names, train=EXAMPLES.train, test=EXAMPLES.tests["test"])
    out = [f"out={tmp_path / 'out'}"] if program is export.main else []
    with pytest.raises(SystemExit):
        program([f"run={finished}", f"task.data_dir={data}", *out])
    said = capsys.readouterr().err
    assert f"{names[0]}" in said
    assert "neg, pos" in said


def test_a_run_of_classes_scores_no_numbers(finished: Path, tmp_path: Path, capsys: Any) -> None:
    data = write(tmp_path / "data", [0, 1], train=EXAMPLES.train, test=EXAMPLES.train)
    with pytest.raises(SystemExit):
        evaluate.main([f"run={finished}", f"task.data_dir={data}", "task.regression=true"])
    assert "put out classes" in capsys.readouterr().err


def test_tags_are_numbered_as_the_run_has_them(tmp_path: Path) -> None:
    from experiments.results.labels import matched

    def folder(name: str, kinds: list[str]) -> Path:
        place = tmp_path / name
        place.mkdir()
        rows = [{"tokens": ["a", "b"], "ner_tags": [f"B-{kind}", "O"]} for kind in kinds]
        for split in ("train", "test"):
            (place / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return place

    result = {"kind": TAGS, "labels": ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]}
    data = matched(Tagging(data_dir=str(folder("one", ["PER"]))).load(), result, "RUN")
    assert data.answers.names == tuple(result["labels"])
    with pytest.raises(UserError, match=r"B-ORG.*B-LOC"):
        matched(Tagging(data_dir=str(folder("other", ["ORG"]))).load(), result, "RUN")


@pytest.mark.parametrize("names", [["0", "1"], ["1", "2"], ["B", "A"]])
def test_choices_are_places_whatever_they_are_called(names: list[str]) -> None:
    asked = [ChoiceExample(("q",), ("a", "b"), label) for label in (1, 0)]
    common: Any = {"metrics": ("accuracy",), "max_length": 8, "test_source": "test"}
    data = ChoiceData(name="t", train=[], tests={"test": asked}, label_names=names, **common)
    found = matched(data, {"kind": CHOICES, "labels": ["A", "B"]}, "RUN")
    assert found.answers.names == ("A", "B")
    assert found.tests["test"] == asked
    with pytest.raises(UserError, match=r"2 choices.*run=RUN was trained on 3"):
        matched(data, {"kind": CHOICES, "labels": ["A", "B", "C"]}, "RUN")


@pytest.fixture(scope="module")
def cats(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose configuration has names of its own."""
    folder = tmp_path_factory.mktemp("cats")
    for path in tiny.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = AutoConfig.from_pretrained(tiny, id2label={0: "CAT", 1: "DOG"})
    config.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("base", ["tiny", "cats"])
def test_a_merged_model_answers_with_the_names_of_the_data(
    base: str, finished: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(base)
    export.main([f"run={finished}", f"model.pretrained={model}", f"out={tmp_path}", "merge=true"])
    config = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").config
    assert config.id2label == {0: "neg", 1: "pos"}
    assert config.label2id == {"neg": 0, "pos": 1}


def test_adapters_say_the_names(finished: Path) -> None:
    for name in ("adapter", "adapter_compact"):
        labels = json.loads((finished / name / "labels.json").read_text())
        assert labels == {"id2label": {"0": "neg", "1": "pos"}, "label2id": {"neg": 0, "pos": 1}}
        # with a config.json, transformers would take the folder for a whole model
        assert not (finished / name / "config.json").exists()


def test_full_fine_tuning_saves_the_names(cats: Path, finished: Path, tmp_path: Path) -> None:
    data = finished.parent / "data"
    plan = Plan.of(compose_config([*words(cats, data), "method=full"]))
    execute(plan, tmp_path / "run")
    config = AutoConfig.from_pretrained(tmp_path / "run" / "model")
    assert config.id2label == {0: "neg", 1: "pos"}


@pytest.mark.parametrize(
    ("answers", "names"),
    [
        (Answers(CLASSES, 3, ("a", "b", "c")), ["a", "b", "c"]),
        (Answers(TAGS, 3, ("O", "B-A", "I-A")), ["O", "B-A", "I-A"]),
        (Answers(NUMBER, 1), ["LABEL_0"]),
        (Answers(CLASSES, 2), ["LABEL_0", "LABEL_1"]),
    ],
)
def test_no_name_of_the_base_is_left(cats: Path, answers: Answers, names: list[str]) -> None:
    config = ModelSpec(name="x", pretrained=str(cats)).load(answers, 0).model.config
    assert config.id2label == dict(enumerate(names))
    assert config.label2id == {name: i for i, name in enumerate(names)}
