"""Style transfer from two runs to its result."""

import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.config.composition import compose_config
from experiments.config.plan import Plan
from experiments.metrics.perplexity import Surprise
from experiments.report import report
from experiments.style_transfer.__main__ import main
from experiments.style_transfer.scores import Judged, table
from experiments.style_transfer.sentences import Sentence
from experiments.training import job
from tests.experiments import styled

QUICK = ["train.batch_size=8", "run.figures=false", "engine.precision=fp32", "model=hub"]
STYLES = ("negative", "positive")


def execute(folder: Path, words: list[str]) -> Path:
    job.execute(Plan.of(compose_config([*QUICK, *words])), folder)
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The runs "writer" and "classifier", and the sentences in "yelp"."""
    place = tmp_path_factory.mktemp("world")
    rows = styled.sentences()
    styled.write(place / "yelp" / "test.jsonl", rows)
    styled.write(place / "own" / "train.jsonl", rows)
    styled.write(place / "own" / "test.jsonl", rows)
    data = styled.write(place / "instructions.json", styled.instructions())
    execute(
        place / "writer",
        [
            "method=lora",
            "task=instructions",
            f"task.data_dir={data}",
            "task.test_share=0.2",
            "task.decoding.max_new_tokens=8",
            f"model.pretrained={styled.writer(place / 'gpt2')}",
            "train.max_steps=2",
        ],
    )
    execute(
        place / "classifier",
        [
            "method=full",
            "task=classification",
            f"task.data_dir={place / 'own'}",
            "task.text_columns=[text]",
            f"model.pretrained={styled.reader(place / 'bert')}",
            "method.optimizer.lr=3e-3",
            "train.epochs=15",
        ],
    )
    return place


def words(world: Path, **changes: str) -> list[str]:
    own = {"run": "writer", "classifier": "classifier", "data_dir": "yelp"}
    return [f"{k}={v}" for k, v in {**{k: world / v for k, v in own.items()}, **changes}.items()]


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "transfers.jsonl").read_text().splitlines()]


def test_the_instruction_run_is_scored(world):
    found = json.loads((world / "writer" / "result.json").read_text())
    assert set(found["metrics"]) == {"bleu", "rougeL"}
    assert (found["test_source"], found["data"]["test"]) == ("train_share", 5)


def test_from_two_runs_to_the_result(world, tmp_path, capsys):
    main([*words(world, out=str(tmp_path / "out")), "task.decoding.beams=2"])
    assert "the classifier is right about" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "result.json").read_text())
    written = lines(tmp_path / "out")
    assert len(written) == 32
    assert set(written[0]) == {"from", "to", "text", "transfer", "classified_as", "references"}
    for what in ("transfers", "copies", "human"):
        rows = found[what]
        assert list(rows) == ["negative_to_positive", "positive_to_negative", "overall"]
        assert [row["sentences"] for row in rows.values()] == [16, 16, 32]
        assert all(0 <= row["accuracy"] <= 1 for row in rows.values())
    right = [line["classified_as"] == line["to"] for line in written]
    assert found["transfers"]["overall"]["accuracy"] == sum(right) / 32
    empty = sum(not line["transfer"] for line in written)
    assert found["transfers"]["overall"]["empty"] == empty
    # a copy is in the target style exactly where the classifier is wrong about the original
    assert found["classifier"]["accuracy"]["overall"] > 0.8
    both = found["classifier"]["accuracy"]["overall"] + found["copies"]["overall"]["accuracy"]
    assert both == pytest.approx(1)
    assert found["human"]["overall"]["bleu"] is None
    assert found["copies"]["overall"]["tokens"] == 32 * 4
    assert found["copies"]["overall"]["perplexity"] > 1
    assert found["language_model"].endswith("gpt2, the run's base model")
    settings = found["settings"]
    assert settings["decoding"]["beams"] == 2
    assert "Rewrite this negative sentence as a positive one" in settings["prompt"]
    assert "sacrebleu" in settings["bleu"]
    assert {"torch", "python"} <= set(found["versions"])


def test_part_of_the_sentences_another_language_model_and_names(world, tmp_path):
    other = ["styles=sad,glad", "instruction=make it {target}", "max_test=6"]
    main([*words(world, out=str(tmp_path), language_model=str(world / "gpt2")), *other])
    found = json.loads((tmp_path / "result.json").read_text())
    assert [row["sentences"] for row in found["transfers"].values()] == [3, 3, 6]
    assert list(found["classifier"]["labels"]) == ["sad", "glad"]
    assert found["language_model"] == str(world / "gpt2")
    assert {line["to"] for line in lines(tmp_path)} == {"sad", "glad"}
    main([*words(world, out=str(tmp_path)), *other])  # its own result may be written over


def test_formality_by_gyafcs_files_and_fluency_by_kenlm(world, tmp_path, monkeypatch):
    """Bad stands for informal, good for formal; the classifier knows them as 0 and 1."""

    class Model:
        def __init__(self, path):
            self.path = path

        def score(self, sentence, bos, eos):
            return -0.5 * (len(sentence.split()) + 1)

    monkeypatch.setitem(sys.modules, "kenlm", SimpleNamespace(Model=Model))
    model = tmp_path / "words.arpa"
    model.write_text("")
    test = tmp_path / "gyafc" / "test"
    test.mkdir(parents=True)
    rows = styled.sentences()
    for label, style in enumerate(("informal", "formal")):
        own = [row for row in rows if row["label"] == label]
        other = ("formal", "informal")[label]
        (test / style).write_text("\n".join(row["text"] for row in own))
        (test / f"{other}.ref0").write_text("\n".join(row["human_reference"] for row in own))
    data = str(tmp_path / "gyafc")
    main(
        [
            *words(world, data_dir=data, out=str(tmp_path / "out"), language_model=str(model)),
            *("classifier_labels=0,1", "max_test=8"),
        ]
    )
    found = json.loads((tmp_path / "out" / "result.json").read_text())
    assert list(found["transfers"]) == ["informal_to_formal", "formal_to_informal", "overall"]
    assert found["copies"]["overall"]["tokens"] == 8 * 5  # four words and the end
    assert found["copies"]["overall"]["perplexity"] == pytest.approx(10**0.5)
    assert "KenLM" in found["settings"]["perplexity"]
    assert re.search("Rewrite this (in)?formal sentence as", found["settings"]["prompt"])


def test_a_prompt_that_would_lose_one_token_is_told(world, tmp_path, capsys):
    short = [*words(world, out=str(tmp_path)), "max_test=2"]
    main(short)
    prompt = json.loads((tmp_path / "result.json").read_text())["settings"]["prompt"]
    needed = len(prompt.split()) + len(["Answer:"])
    main([*short, f"task.max_length={needed + 1}"])  # and the end of text
    with pytest.raises(SystemExit):
        main([*short, f"task.max_length={needed}"])
    said = rf"sentence 0 .*{needed} tokens.*room for {needed - 1}\b"
    assert re.search(said, capsys.readouterr().err)


def test_a_table_of_runs_leaves_the_transfers_out(world, tmp_path):
    main([*words(world), "max_test=4"])
    assert (world / "writer" / "style_transfer" / "result.json").is_file()
    assert "style_transfer" not in report([world / "writer"], tmp_path)


def classifier(world: Path, folder: Path, labels: object, kind: str = "classes") -> str:
    """The classifier with other labels in its result."""
    shutil.copytree(world / "classifier", folder)
    path = folder / "result.json"
    values = {**json.loads(path.read_text()), "labels": labels, "kind": kind}
    path.write_text(json.dumps(values))
    return str(folder)


def test_labels_are_matched_by_name(world, tmp_path):
    renamed = classifier(world, tmp_path / "named", ["bad", "good"])
    main([*words(world, classifier=renamed, out=str(tmp_path)), "classifier_labels=bad,good"])
    named = json.loads((tmp_path / "result.json").read_text())
    assert named["classifier"]["accuracy"]["overall"] > 0.8


@pytest.mark.parametrize(
    ("columns", "refused"), [("text", False), (0, False), (["text"], False), (["a", "b"], True)]
)
def test_a_classifier_reads_one_text(world, tmp_path, capsys, columns, refused):
    """Its column may be written without a list."""
    folder = shutil.copytree(world / "classifier", tmp_path / "c")
    journal = folder / "checkpoints" / "stages.json"
    values = json.loads(journal.read_text())
    values["config"]["task"]["text_columns"] = columns
    journal.write_text(json.dumps(values))
    given = [*words(world, classifier=str(folder), out=str(tmp_path / "out")), "max_test=2"]
    if refused:
        with pytest.raises(SystemExit):
            main(given)
        assert "reads pairs of texts" in capsys.readouterr().err
    else:
        main(given)


def test_a_classifier_whose_model_has_moved(world, tmp_path):
    folder, elsewhere = shutil.copytree(world / "classifier", tmp_path / "c"), tmp_path / "b, new"
    shutil.copytree(world / "bert", elsewhere)
    journal = folder / "checkpoints" / "stages.json"
    journal.write_text(journal.read_text().replace(str(world / "bert"), str(tmp_path / "none")))
    given = [*words(world, classifier=str(folder), out=str(tmp_path / "out")), "max_test=2"]
    with pytest.raises(SystemExit):
        main(given)
    main([*given, f"classifier_model={elsewhere}"])
    found = json.loads((tmp_path / "out" / "result.json").read_text())
    assert found["classifier"]["accuracy"]["overall"] > 0.8


@pytest.mark.parametrize(
    ("labels", "kind", "more", "said"),
    [
        (["a", "b", "c"], "classes", "", "3 labels.*two"),
        (None, "number", "", "no labels"),
        (["bad", "good"], "classes", "", "bad, good.*0, 1"),
        (["1", "0"], "classes", "", "32 .*chance"),
        (["0", "1"], "classes", "classifier_labels=1,0", "chance"),
    ],
)
def test_wrong_classifiers(world, tmp_path, capsys, labels, kind, more, said):
    folder = classifier(world, tmp_path / "c", labels, kind)
    with pytest.raises(SystemExit):
        main([*words(world, classifier=folder), *more.split()])
    assert re.search(f"^error: classifier={re.escape(folder)} .*{said}", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["run="], "run=.*empty"),
        (["run={world}/yelp"], "no finished run"),
        (["run={world}/classifier"], "task=classification.*task=instructions"),
        (["classifier={world}/yelp"], "classifier=.*yelp.*finished run"),
        (["data_dir={world}/gpt2"], "gpt2.*file test"),
        (["out={world}/classifier"], "out=.*result"),
        (["max_test=few"], "max_test=few.*must be"),
        (["max_tset=3"], "'max_tset'.*'max_test'"),
        (["styles=one"], "styles=one.*two"),
        (["instruction=do it"], r"instruction=.*\{target\}"),
        (["label_column=stars"], "'stars'.*'text', 'label'"),
        (["language_model={world}/nothing"], "nothing.*exist"),
        (["language_model={world}/bert"], "encoder"),
        (["task.max_length=20"], "sentence 0 .* room for"),
        (["task.decoding.beams=0"], r"task\.decoding\.beams=0"),
    ],
)
def test_wrong_input(world, capsys, given, said):
    changed = [word.format(world=world) for word in given]
    with pytest.raises(SystemExit):
        main([*words(world), *changed])
    error = capsys.readouterr().err
    assert re.search(said, error)
    assert error.count("\n") == 1


def test_wrong_labels_of_the_data(world, tmp_path, capsys):
    rows = styled.sentences()
    styled.write(tmp_path / "test.json", [*rows[:3], {**rows[3], "label": 2}])
    with pytest.raises(SystemExit):
        main(words(world, data_dir=str(tmp_path)))
    assert re.search("row 3 .*label 2.*0 or 1", capsys.readouterr().err)


def test_blank_texts_are_in_no_style():
    rows = [Sentence("a b", 0, ("c d",)), Sentence("e f", 0, ("g h",))]
    found = table(
        Judged(["", "g h"], [None, 1], [Surprise(0.0, 0), Surprise(2.0, 2)]), rows, STYLES
    )
    assert list(found) == ["negative_to_positive", "overall"]
    row = found["overall"]
    assert (row["empty"], row["accuracy"], row["tokens"]) == (1, 0.5, 2)
